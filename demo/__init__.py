"""The demonstration pages. They talk to the server as any other client does."""
