"""The retrieval index: items by their vectors. One kind of index per file; what the vectors mean is not known here."""

from serving.index._folder import Indexes, kinds
from serving.index.base import Hit, Index, Item, Origin, Query, Stats

__all__ = ["Hit", "Index", "Indexes", "Item", "Origin", "Query", "Stats", "kinds"]
