"""Several processes behind one address, as one server: what they know of each other, and what runs them."""
