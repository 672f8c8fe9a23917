"""The process ends at any moment, without a chance to tidy up: what was acknowledged is there, and nothing is half."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from serving.index import Indexes, Origin

GROUP = 5
DIMENSION = 300

# Puts groups of items without end, and says so after each; every third group it deletes an item of the one before.
WRITER = f"""
import sys
from pathlib import Path
import numpy as np
from serving.index import Indexes, Item, Origin

index = Indexes(Path(sys.argv[1])).ensure("killed", Origin("m", "1", "a", "f" * 64), {DIMENSION})
number = int(sys.argv[2])
while True:
    names = [f"{{number:06}}-{{i}}" for i in range({GROUP})]
    vector = np.full({DIMENSION}, number, np.float32)
    index.put([Item(name, "text", vector, {{"of": number, "pad": "x" * 500}}) for name in names])
    print("put", number, flush=True)
    if number % 3 == 0 and number:
        index.delete(f"{{number - 1:06}}-0")
        print("deleted", number - 1, flush=True)
    number += 1
"""


def killed_after(folder: Path, first: int, seconds: float) -> list[str]:
    """What a writer acknowledged until it was killed, `seconds` after its first word."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, folder, str(first)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = [process.stdout.readline()]
    time.sleep(seconds)
    process.kill()
    rest, _ = process.communicate()
    return [line for line in (said[0] + rest).splitlines(keepends=True) if line.endswith("\n")]


def check(folder: Path, said: list[str], first: int) -> int:
    """Compares what is there with what was acknowledged; returns the number of the last group that is there."""
    indexes = Indexes(folder)
    index = indexes.get("killed")
    groups: dict[int, set[str]] = {}
    after = ""
    while page := index.page(1000, after):
        after = page[-1].id
        for item in page:
            number = int(item.id[:6])
            assert item.metadata == {"of": number, "pad": "x" * 500}
            assert item.modality == "text"
            np.testing.assert_array_equal(item.vector, np.full(DIMENSION, number, np.float32))
            groups.setdefault(number, set()).add(item.id[-1])
    acknowledged = {int(line.split()[1]) for line in said if line.startswith("put")}
    deleted = {int(line.split()[1]) for line in said if line.startswith("deleted")}
    assert acknowledged <= set(groups)
    last = max(groups)
    assert last <= max(acknowledged) + 1  # nothing but the write that was under way
    for number in range(first, last + 1):
        whole = {str(i) for i in range(GROUP)}
        if number in deleted:
            assert groups[number] == whole - {"0"}
        else:
            assert groups[number] == whole or (number == last - 1 and groups[number] == whole - {"0"})
    indexes.close()
    return last


def kill_again_and_again(folder: Path, times: int, seed: int) -> None:
    chance = random.Random(seed)
    first = 0
    for _ in range(times):
        said = killed_after(folder, first, chance.uniform(0, 0.15))
        first = check(folder, said, first) + 1


def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path, times=3, seed=0)


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_in_many_kills(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path, times=20, seed=1)


def test_killed_while_it_is_made(tmp_path: Path) -> None:
    """An index appears whole: what is left of one that was not finished does not count."""
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from serving.index import Indexes, Origin, embedded\n"
        "embedded.Embedded.create = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Indexes(Path(sys.argv[1])).ensure('half', Origin('m', '1', 'a', 'f'), 2)\n"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path], check=False)
    indexes = Indexes(tmp_path)
    assert indexes.names() == []
    indexes.ensure("half", Origin("m", "1", "a", "f" * 64), 2)
    indexes.close()
