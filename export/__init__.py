"""Checkpoint in, verified bundle out: compose, fold, trace, optimise, parity. Never imports `serving`."""
