"""The same graphs behind this server and behind others: one load generator, the same bodies, one run."""
