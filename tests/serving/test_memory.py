"""Memory goes back: what was freed in small pieces, pinned by nothing, is no longer the process's."""

from __future__ import annotations

import subprocess
import sys

import pytest

from serving.memory import _malloc_trim

# Small blocks (below malloc's threshold for mapping), of which the last stays: so the heap cannot shrink at its end.
SCRIPT = """
from pathlib import Path
from serving.memory import give_back

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

blocks = [bytearray(50_000) for _ in range(2000)]
last = bytearray(50_000)
full = resident()
del blocks
give_back()
print(full - resident())
"""


@pytest.mark.skipif(sys.platform != "linux" or _malloc_trim() is None, reason="malloc_trim is glibc's")
def test_freed_memory_goes_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 50e6  # of 100 MB
