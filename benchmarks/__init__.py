"""Measurements of this project: folds, adapter forms, start-up. Ratios within one run are the result."""
