"""Logs as text or as JSON lines, each with the id of the request it was written for. Never what a request holds."""

from __future__ import annotations

import itertools
import json
import logging
import re
import secrets
import time
from contextvars import ContextVar

from serving.settings import Settings

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="-")
"""Of the request that is being answered."""
GIVEN_ID = re.compile(rb"[\w.:+/=@-]{1,128}", re.ASCII)
"""Ids that a client may choose: nothing that could forge a line of a log."""

access = logging.getLogger("serving.access")

_PREFIX = secrets.token_hex(4)
_NUMBERS = itertools.count(1)


def request_id(given: bytes | None) -> str:
    """The id that a client gave, if it may have it; otherwise a new one, unlike those of other processes."""
    if given is not None and GIVEN_ID.fullmatch(given):
        return given.decode("ascii")
    return f"{_PREFIX}-{next(_NUMBERS):x}"


def configure(settings: Settings) -> None:
    """Sets up the logging of this process, to stderr."""
    handler = logging.StreamHandler()
    handler.addFilter(_with_id)
    handler.setFormatter(Json() if settings.log_format == "json" else Text())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # workers ask each other all the time
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of every broken form a stranger sends
    access.setLevel(logging.INFO if settings.access_log else logging.WARNING)


def _with_id(record: logging.LogRecord) -> bool:
    if not hasattr(record, "request_id"):
        record.request_id = REQUEST_ID.get()
    return True


class Text(logging.Formatter):
    """`time LEVEL logger [request id]: message`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s [%(request_id)s]: %(message)s")


class Json(logging.Formatter):
    """One object a line: time (UTC, RFC 3339), level, logger, message, request_id; exception, if there is one.

    What a record brings as `extra={"fields": {..}}` stands beside them.
    """

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": getattr(record, "request_id", "-"),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
