"""Bearer keys, what they allow, and how fast. Knows no HTTP and no route.

Of a key only its sha256 is kept. What comes with a request is compared with every key, in constant time, so that the
time it takes tells nothing of them. Nothing here is ever put into a message, a log line or a `repr`.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import re
import stat
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, TypeAdapter, ValidationError, model_validator

from wander.errors import Forbidden, RateLimited, TooLarge, Unauthorized, UsageError
from wander.manifest import first_problem

SHORTEST = 32
"""Characters of a key. `wander keys new` makes longer ones."""
LONGEST = 512
BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*) *", re.IGNORECASE | re.ASCII)


class Role(StrEnum):
    """What a key may do; one includes no other."""

    INFER = "infer"
    INDEX_WRITE = "index-write"
    ADMIN = "admin"


Access = Role | Literal["open", "key"]
"""What a route needs: a role, any key, or nothing."""


class Bucket:
    """Requests that a key may make at once, refilled at its rate.

    Not for several threads.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self.burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._at = clock()

    def take(self, items: int, paid: int = 0) -> None:
        """Takes `items` less those that are `paid` already. Takes none if it raises RateLimited or TooLarge."""
        if items > self.burst:
            raise TooLarge(f"{items} items are more than the {self.burst} that this key may send at once", "items")
        now = self._clock()
        self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate)
        self._at = now
        missing = items - paid - self._tokens
        if missing > 1e-9:
            wait = (items - self._tokens) / self.rate
            raise RateLimited(f"this key may ask {self.rate:g} times a second; try again in {wait:.3g} s", wait)
        self._tokens -= items - paid


@dataclass(frozen=True)
class Principal:
    """Who asks: the name of a key, never the key."""

    name: str
    roles: frozenset[Role]
    bucket: Bucket | None = field(default=None, repr=False, compare=False)

    def require(self, access: Access) -> None:
        """Raises Forbidden."""
        if access in ("open", "key") or access in self.roles:
            return
        if self is ANONYMOUS:
            raise Forbidden(
                f"this needs a key with the role {access}, and the server has no keys: make one with "
                f"wander keys new NAME --role {access}, and start the server with --keys FILE"
            )
        raise Forbidden(f"the key {self.name!r} has not the role {access}, which this needs")


ANONYMOUS = Principal("anonymous", frozenset({Role.INFER, Role.INDEX_WRITE}))
"""Everyone, on a server without keys."""

_caller: ContextVar[Principal] = ContextVar("caller", default=ANONYMOUS)


class Keys:
    """All keys of a server; it may have none."""

    def __init__(self, principals: Sequence[tuple[bytes, Principal]] = ()) -> None:
        self._principals = tuple(principals)

    def __bool__(self) -> bool:
        return bool(self._principals)

    def __repr__(self) -> str:
        return f"Keys({', '.join(principal.name for _, principal in self._principals)})"

    def find(self, key: str) -> Principal | None:
        """Whose key it is. Takes as long for any key, be it known or not."""
        digest, found = hashlib.sha256(key.encode()).digest(), None
        for known, principal in self._principals:
            if hmac.compare_digest(known, digest):
                found = principal
        return found

    def identify(self, header: str | None) -> Principal:
        """Whose key an `Authorization` header holds. Raises Unauthorized; without any keys, everyone is ANONYMOUS."""
        if not self:
            return ANONYMOUS
        if header is None:
            raise Unauthorized("a key is needed; send it as the header Authorization: Bearer KEY")
        match = BEARER.fullmatch(header)
        principal = None if match is None or len(match[1]) > LONGEST else self.find(match[1])
        if principal is None:
            raise Unauthorized("the header Authorization holds none of this server's keys; it must be: Bearer KEY")
        return principal


def authorise(keys: Keys, header: str | None, access: Access) -> Principal:
    """Who asks, if that is allowed; counts the request towards the rate of the key.

    Args:
        header: the value of `authorization`, among the headers of HTTP or the metadata of gRPC.

    Raises Unauthorized, Forbidden and RateLimited.
    """
    if access == "open":
        return ANONYMOUS
    principal = keys.identify(header)
    principal.require(access)
    return admit(principal)


def admit(principal: Principal, paid: bool = False) -> Principal:
    """Counts a request, unless that is done already, and lets its items be counted. Raises RateLimited."""
    if principal.bucket is not None and not paid:
        principal.bucket.take(1)
    _caller.set(principal)
    return principal


def charge(items: int) -> None:
    """Counts the items of a bulk request for the key that it came with, of which its request has paid for one.

    Raises RateLimited, and TooLarge for more than the key may ever send at once.
    """
    bucket = _caller.get().bucket
    if bucket is not None and items > 1:
        bucket.take(items, paid=1)


class Entry(BaseModel):
    """One key, as a file of keys has it: its `sha256`, or the `key` itself.

    Attributes:
        rate: requests a second, on the average; items of a bulk request count one by one. None: no limit.
        burst: requests that may come at once; by default those of one second.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(default=None, repr=False)
    key: SecretStr | None = None
    roles: Annotated[tuple[Role, ...], Field(min_length=1)]
    rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    burst: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Entry:
        if (self.key is None) == (self.sha256 is None):
            raise ValueError(f"key {self.name!r} needs either sha256 or key")
        if self.key is not None:
            text = self.key.get_secret_value()
            if not SHORTEST <= len(text) <= LONGEST or not BEARER.fullmatch(f"Bearer {text}"):
                raise ValueError(
                    f"key {self.name!r} must have {SHORTEST} to {LONGEST} letters, digits and -._~+/; "
                    "make one with: wander keys new"
                )
        if self.burst is not None and self.rate is None:
            raise ValueError(f"key {self.name!r} has a burst, but no rate")
        return self

    def principal(self) -> tuple[bytes, Principal]:
        text = None if self.key is None else self.key.get_secret_value()
        digest = bytes.fromhex(self.sha256 or "") if text is None else hashlib.sha256(text.encode()).digest()
        bucket = None if self.rate is None else Bucket(self.rate, self.burst or math.ceil(self.rate))
        return digest, Principal(self.name, frozenset(self.roles), bucket)


_ENTRIES = TypeAdapter(Annotated[list[Entry], Field(min_length=1)], config=ConfigDict(hide_input_in_errors=True))


def read_keys(given: str | None) -> Keys:
    """The keys in a file, or in the JSON text that stands in place of its name. None: no keys.

    Raises UsageError for what holds no keys, and for a file that others could change, or could read keys from.
    """
    if given is None:
        return Keys()
    inline = given.lstrip().startswith("[")
    where = "the keys" if inline else f"the keys in {given}"
    mode, text = 0, given.encode()
    if not inline:
        try:
            with open(given, "rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                text = file.read()
        except OSError as error:
            raise UsageError(f"{where} cannot be read: {error.strerror}") from error
    try:
        entries = _ENTRIES.validate_json(text)
    except ValidationError as error:
        raise UsageError(f"{where} cannot be used: {first_problem(error)}") from None
    if mode & 0o022:
        raise UsageError(f"{where} can be changed by others; run: chmod go-w {given}")
    if mode & 0o044 and any(entry.key is not None for entry in entries):
        raise UsageError(f"{where} can be read by others; run: chmod 600 {given}, or keep only sha256 there")
    principals = [entry.principal() for entry in entries]
    for what, values in (
        ("name", [entry.name for entry in entries]),
        ("sha256", [digest for digest, _ in principals]),
    ):
        if len(set(values)) < len(values):
            raise UsageError(f"{where} cannot be used: two entries have the same {what}")
    return Keys(principals)
