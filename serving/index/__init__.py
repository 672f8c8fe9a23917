"""The retrieval index: items by their vectors. One kind of index per file; what the vectors mean is not known here."""

from serving.index._folder import Indexes, kinds
from serving.index.base import Found, Hit, Index, IndexOptions, Item, Origin, Query, Stats

__all__ = ["Found", "Hit", "Index", "IndexOptions", "Indexes", "Item", "Origin", "Query", "Stats", "kinds"]
