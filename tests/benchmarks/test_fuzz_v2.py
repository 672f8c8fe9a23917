import random
from pathlib import Path

import pytest

from benchmarks.fuzz_v2 import Failed, check, request, valid
from serving.protocols._tensors import decode
from tests.benchmarks.running import run
from tests.serving.building import Linear, publish
from tests.serving.protocols import echo


def test_wild_requests_are_answered_or_refused(tmp_path: Path) -> None:
    publish(tmp_path / "mosi")
    for dtype in ("int8", "bool", "float16"):
        echo.publish(tmp_path / dtype, dtype)
    done = run("fuzz_v2", str(tmp_path), "--cases", "600", "--seed", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("600 requests, seed 3; answers 200: ")
    assert "422: " in done.stdout


def test_what_is_called_valid_is_read() -> None:
    import orjson

    signature, rng = Linear("sentiment").signature, random.Random(0)
    for _ in range(50):
        value, data = valid(rng, signature)
        text = orjson.dumps(value)
        assert set(decode(text + data, len(text)).inputs) == {"text", "audio", "vision"}


def test_a_seed_says_which_requests() -> None:
    graphs = {"mosi": Linear("sentiment").signature}
    one, two = random.Random(5), random.Random(5)
    assert [request(one, graphs) for _ in range(200)] == [request(two, graphs) for _ in range(200)]


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (500, {}, b'{"error": "x"}'),
        (422, {}, b'{"detail": "x"}'),
        (200, {b"inference-header-content-length": b"14"}, b'{"outputs":[]}more'),
    ],
)
def test_answers_that_none_may_be(status: int, headers: dict[bytes, bytes], body: bytes) -> None:
    with pytest.raises(Failed):
        check(status, headers, body)
