"""Keys, what they allow, and how fast."""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from contextlib import suppress
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.auth import ANONYMOUS, Access, Keys, Principal, Role, authorise, charge, read_keys
from serving.auth.keys import LONGEST, SHORTEST, Bucket, Entry
from wander.errors import Forbidden, RateLimited, TooLarge, Unauthorized, UsageError

KEY = "wander_" + "k" * 40
OTHER = "wander_" + "o" * 40


def entry(key: str = KEY, name: str = "alice", **more: Any) -> dict[str, Any]:
    return {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest(), "roles": ["infer"], **more}


@pytest.fixture
def keys() -> Keys:
    return read_keys(json.dumps([entry(), entry(OTHER, "bob", roles=["admin", "index-write"])]))


# What comes with a request


@pytest.mark.parametrize("header", [f"Bearer {KEY}", f"bearer {KEY}", f"BEARER   {KEY}", f"Bearer {KEY} "])
def test_key_is_found(keys: Keys, header: str) -> None:
    assert authorise(keys, header, Role.INFER).name == "alice"


@pytest.mark.parametrize(
    "header",
    [
        None, "", " ", "Bearer", "Bearer ", KEY, f"Basic {KEY}", f"Bearer{KEY}", f"Bearer\t{KEY}", f"Bearer {KEY} x",
        f"Bearer {KEY}, Bearer {KEY}", f" Bearer {KEY}", f"Bearer {KEY[:-1]}", f"Bearer {KEY}k",
        f"Bearer {KEY.upper()}",
        f"Bearer {KEY}\n", f"Bearer {KEY}\0", f"Bearer {'ä' * 40}", "Bearer " + "k" * 100_000,
        f"Bearer {hashlib.sha256(KEY.encode()).hexdigest()}",
    ],
)  # fmt: skip
def test_no_key_is_found(keys: Keys, header: str | None) -> None:
    with pytest.raises(Unauthorized) as raised:
        authorise(keys, header, "key")
    assert KEY not in str(raised.value)
    assert "Bearer KEY" in str(raised.value)


@given(st.one_of(st.text(), st.text().map("Bearer {}".format), st.binary().map(lambda b: b.decode("latin-1"))))
def test_any_header_is_refused_in_words(header: str) -> None:
    keys = read_keys(json.dumps([entry()]))
    with pytest.raises(Unauthorized) as raised:
        keys.identify(header)
    assert len(str(raised.value)) < 200
    assert "\n" not in str(raised.value)


@given(st.from_regex(r"[A-Za-z0-9._~+/-]{32,512}", fullmatch=True))
def test_any_well_formed_key_works(key: str) -> None:
    assert read_keys(json.dumps([entry(key)])).identify(f"Bearer {key}").name == "alice"


@pytest.mark.parametrize("key", [KEY, OTHER, "unknown"])
def test_every_key_is_compared_in_constant_time(keys: Keys, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def counted(one: bytes, two: bytes) -> bool:
        compared.append((one, two))
        return real(one, two)

    monkeypatch.setattr(hmac, "compare_digest", counted)
    keys.find(key)
    assert len(compared) == 2
    assert all(len(one) == len(two) == 32 for one, two in compared)


ACCESSES: list[Access] = [*Role, "key", "open"]


@pytest.mark.parametrize("access", ACCESSES)
def test_roles(keys: Keys, access: Access) -> None:
    for key, name, roles in ((KEY, "alice", {"infer"}), (OTHER, "bob", {"admin", "index-write"})):
        allowed = {*roles, "key", "open"}
        if access in allowed:
            assert authorise(keys, f"Bearer {key}", access).name == ("anonymous" if access == "open" else name)
            continue
        with pytest.raises(Forbidden, match=f"key '{name}' has not the role {access}"):
            authorise(keys, f"Bearer {key}", access)


@pytest.mark.parametrize("access", ACCESSES)
@pytest.mark.parametrize("header", [None, f"Bearer {KEY}", "nonsense"])
def test_without_keys_everything_but_admin_is_open(access: Access, header: str | None) -> None:
    if access != Role.ADMIN:
        assert authorise(Keys(), header, access) is ANONYMOUS
        return
    with pytest.raises(Forbidden, match="wander keys new NAME --role admin") as raised:
        authorise(Keys(), header, access)
    assert KEY not in str(raised.value)


def test_nothing_shows_a_key(keys: Keys) -> None:
    made = Entry.model_validate({"name": "carol", "key": KEY, "roles": ["infer"]})
    digest = hashlib.sha256(KEY.encode())
    shown = "".join(map(repr, (keys, made, made.principal()[1], keys.find(KEY), Entry(**entry())))) + str(made)
    for secret in (KEY, digest.hexdigest(), repr(digest.digest())):
        assert secret not in shown
    assert "alice" in shown


# The file


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize("plain", [True, False])
def test_file_and_text_read_alike(tmp_path: Path, inline: bool, plain: bool) -> None:
    one = {"name": "alice", "key": KEY, "roles": ["infer"]} if plain else entry()
    text = json.dumps([one])
    path = tmp_path / "keys.json"
    path.write_text(text)
    path.chmod(0o600)
    found = read_keys(text if inline else str(path)).find(KEY)
    assert found == Principal("alice", frozenset({Role.INFER}))


def test_no_setting_means_no_keys() -> None:
    assert not read_keys(None)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "Invalid JSON"),
        ("{}", "valid array"),
        ("[]", "at least 1"),
        ("[1]", "0: "),
        ('["' + KEY, "Invalid JSON"),
        (json.dumps([entry() | {"sha256": None}]), "needs either sha256 or key"),
        (json.dumps([entry() | {"key": KEY}]), "needs either sha256 or key"),
        (json.dumps([entry() | {"sha256": KEY}]), "0.sha256"),
        (json.dumps([entry() | {"sha256": "A" * 64}]), "0.sha256"),
        (json.dumps([entry(roles=[])]), "0.roles"),
        (json.dumps([entry(roles=["root"])]), "'infer', 'index-write' or 'admin'"),
        (json.dumps([entry(name="a b")]), "0.name"),
        (json.dumps([entry(name="a\n")]), "0.name"),
        (json.dumps([entry(name="")]), "0.name"),
        (json.dumps([entry(rate=0)]), "0.rate"),
        ('[{"name": "a", "sha256": "' + "0" * 64 + '", "roles": ["infer"], "rate": Infinity}]', "0.rate"),
        (json.dumps([entry(burst=3)]), "a burst, but no rate"),
        (json.dumps([entry(rate=1, burst=0)]), "0.burst"),
        (json.dumps([entry(colour="blue")]), "0.colour"),
        (json.dumps([entry(), entry(OTHER)]), "same name"),
        (json.dumps([entry(), entry(name="bob")]), "same sha256"),
        (json.dumps([{"name": "a", "key": "k" * (SHORTEST - 1), "roles": ["infer"]}]), "wander keys new"),
        (json.dumps([{"name": "a", "key": "k" * (LONGEST + 1), "roles": ["infer"]}]), "wander keys new"),
        (json.dumps([{"name": "a", "key": "k " * 30, "roles": ["infer"]}]), "wander keys new"),
    ],
)
def test_what_holds_no_keys(tmp_path: Path, text: str, problem: str) -> None:
    """A server that cannot read its keys does not start, rather than letting everyone in."""
    path = tmp_path / "keys.json"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(UsageError) as raised:
        read_keys(str(path))
    message = str(raised.value)
    assert problem in message
    assert str(path) in message
    assert "\n" not in message
    assert "k" * (SHORTEST - 1) not in message


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_keys(str(tmp_path / "keys.json"))
    with pytest.raises(UsageError, match="directory"):
        read_keys(str(tmp_path))


@pytest.mark.parametrize(
    ("mode", "hashed", "plain"),
    [
        (0o600, None, None),
        (0o400, None, None),
        (0o640, None, "chmod 600"),
        (0o444, None, "chmod 600"),  # as a mounted secret is: fine, for it holds no key
        (0o660, "chmod go-w", "chmod go-w"),
        (0o602, "chmod go-w", "chmod go-w"),
    ],
)
def test_file_that_others_can_use(tmp_path: Path, mode: int, hashed: str | None, plain: str | None) -> None:
    path = tmp_path / "keys.json"
    for content, hint in ((entry(), hashed), ({"name": "alice", "key": KEY, "roles": ["infer"]}, plain)):
        path.unlink(missing_ok=True)
        path.write_text(json.dumps([content]))
        path.chmod(mode)
        if hint is None:
            assert read_keys(str(path))
            continue
        with pytest.raises(UsageError, match=hint):
            read_keys(str(path))


# Rates


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_bucket_empties_and_fills() -> None:
    clock = Clock()
    bucket = Bucket(rate=2, burst=3, clock=clock)
    for _ in range(3):
        bucket.take(1)
    with pytest.raises(RateLimited) as raised:
        bucket.take(1)
    assert raised.value.retry_after == pytest.approx(0.5)
    clock.now += 0.5
    bucket.take(1)
    clock.now += 1000  # it never holds more than its burst
    for _ in range(3):
        bucket.take(1)
    with pytest.raises(RateLimited):
        bucket.take(1)


def test_bulk_costs_its_items_and_its_request_is_one_of_them() -> None:
    clock = Clock()
    bucket = Bucket(rate=1, burst=10, clock=clock)
    bucket.take(1)
    bucket.take(7, paid=1)
    bucket.take(1)
    with pytest.raises(RateLimited) as raised:
        bucket.take(4, paid=1)
    clock.now += raised.value.retry_after  # after which the request itself and its items fit
    bucket.take(1)
    bucket.take(4, paid=1)
    with pytest.raises(RateLimited):
        bucket.take(1)


def test_bulk_that_can_never_pass_is_no_matter_of_time() -> None:
    with pytest.raises(TooLarge, match="11 items are more than the 10"):
        Bucket(rate=1, burst=10).take(11)


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 12)), max_size=60))
def test_bucket_never_gives_more_than_its_rate(steps: list[tuple[float, int]]) -> None:
    clock, taken = Clock(), 0
    bucket = Bucket(rate=3, burst=10, clock=clock)
    for pause, items in steps:
        clock.now += pause
        with suppress(RateLimited, TooLarge):
            bucket.take(items)
            taken += items
        assert taken <= 10 + 3 * clock.now + 1e-6


def test_burst_is_a_second_unless_given() -> None:
    for rate, burst, expected in ((0.1, None, 1), (2.5, None, 3), (2.5, 9, 9)):
        principal = Entry(**entry(rate=rate, burst=burst)).principal()[1]
        assert principal.bucket is not None
        assert principal.bucket.burst == expected >= math.ceil(min(rate, expected))


def test_charge_goes_to_who_asks() -> None:
    keys = read_keys(json.dumps([entry(rate=0.001, burst=5), entry(OTHER, "bob")]))

    def ask() -> None:
        authorise(keys, f"Bearer {KEY}", "key")
        charge(4)
        with pytest.raises(RateLimited):
            charge(3)
        authorise(keys, f"Bearer {OTHER}", "key")
        charge(1000)
        authorise(keys, f"Bearer {KEY}", Role.INFER)
        with pytest.raises(RateLimited):
            authorise(keys, f"Bearer {KEY}", Role.INFER)

    copy_context().run(ask)
    charge(1000)  # as everyone is on their own
