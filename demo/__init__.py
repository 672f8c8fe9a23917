"""The demonstration: a page with a tab for every task that a server has models of. It asks as any other client does."""
