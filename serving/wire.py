"""What the server and its clients agree on over HTTP: the statuses of errors, and the names of headers.

Knows no framework, so that a client can be installed without one.
"""

from __future__ import annotations

from wander.errors import (
    DeadlineExceeded,
    EngineError,
    Forbidden,
    InputError,
    MalformedBody,
    NotFound,
    NotReady,
    Overloaded,
    RateLimited,
    ServiceError,
    SlowRequest,
    TooLarge,
    Unauthorized,
    Unreachable,
    UnsupportedMedia,
)

STATUS: dict[type[ServiceError], int] = {
    InputError: 422,
    MalformedBody: 400,
    TooLarge: 413,
    UnsupportedMedia: 415,
    NotFound: 404,
    Unauthorized: 401,
    Forbidden: 403,
    Overloaded: 429,  # of those with one status the first is what a client makes of the status alone
    RateLimited: 429,
    NotReady: 503,
    DeadlineExceeded: 504,
    SlowRequest: 408,
    Unreachable: 502,
    EngineError: 500,
}

URN = "urn:wander:error:"
"""Before the name of an error's class, the `type` of a problem."""
UNFORESEEN = "an internal error; the server's log tells more"
"""All that a client is told of an error that nobody raised on purpose: what it says may not be theirs to know."""
TIMEOUT_HEADER = "x-request-timeout-ms"
REQUEST_ID_HEADER = "x-request-id"
JSON_LENGTH_HEADER = "inference-header-content-length"
"""Bytes of JSON before the binary tensors of a KServe v2 body."""
