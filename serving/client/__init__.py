"""A client of the server, and of any other that speaks KServe v2: blocking, or with async and await.

Knows no model and no framework: it needs httpx and numpy. What a server refuses is raised as the error that it was
there (`wander.errors`).
"""

from serving.client._clients import AsyncClient, Client

__all__ = ["AsyncClient", "Client"]
