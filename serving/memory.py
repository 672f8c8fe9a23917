"""Memory that is free goes back to the system. Knows no model."""

from __future__ import annotations

import ctypes
import gc
from functools import cache
from typing import Any


@cache
def _malloc_trim() -> Any:
    """glibc's function of that name; None with another C library, as musl's or that of macOS."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # TypeError: Windows, where there is no library of the process
        return None


def give_back() -> None:
    """Collects garbage and hands free pages to the system: glibc keeps those of every thread's arena for itself.

    For when something large was freed, as a model was. Takes some milliseconds, during which other threads run.
    """
    gc.collect()
    if (trim := _malloc_trim()) is not None:
        trim(0)
