"""Every error this project raises on purpose.

    WanderError
    ├── UsageError               the command was called wrongly
    ├── ConfigError              sizes or options that cannot be, or are not known
    ├── MissingDependency        an optional package or device is not here
    ├── CheckpointError          a checkpoint that cannot be loaded as it is
    │   └── UnsafeCheckpoint     a checkpoint that asks for code to be run
    ├── BundleError              a bundle that is incomplete, altered or not one of ours
    ├── ParityError              the exported graph does not answer as the reference does
    └── ServiceError             what a request can be answered with
        ├── InputError           the data of one request; names the field
        │   ├── MalformedBody    the body cannot be parsed at all
        │   ├── TooLarge         a limit on size is exceeded
        │   └── UnsupportedMedia a media type that is not understood
        ├── NotFound
        ├── Unauthorized
        ├── Forbidden
        ├── Overloaded           the queue is full; try again later
        │   └── RateLimited      the key asks faster than its rate; try again later
        ├── NotReady             loading or draining; try again later
        ├── DeadlineExceeded
        │   └── SlowRequest      the request did not come whole in time
        ├── Unreachable          no server answers at the address
        └── EngineError          the engine failed on this item

Messages say what is wrong and what to do, in one line. This module knows no HTTP and no command line: the status codes
are in `serving.wire`, the exit codes in `wander.__main__`.
"""

from __future__ import annotations


class WanderError(Exception):
    """Base of every error that is raised on purpose. Its text is one line for a person."""


class UsageError(WanderError):
    """A command was called with arguments that cannot work together, or that name nothing."""


class ConfigError(WanderError):
    """A configuration value is impossible, or one that is needed is not known. The message names it."""


class MissingDependency(WanderError):
    """An optional package or device is absent. The message holds the line that installs it."""


class CheckpointError(WanderError):
    """A checkpoint is damaged, incomplete, or does not fit the model it is loaded into."""


class UnsafeCheckpoint(CheckpointError):
    """A checkpoint asks for something to be imported or called that no checkpoint needs. Nothing of it was run."""


class BundleError(WanderError):
    """A bundle is incomplete, was altered after it was written, or has a schema this version does not read."""


class ParityError(WanderError):
    """An exported graph differs from its reference by more than the tolerance allows."""


class ServiceError(WanderError):
    """Base of the errors with which a request can be answered."""


class InputError(ServiceError):
    """The data of a request is wrong.

    Attributes:
        field: path of the offending field (`"items[2].audio"`), or None if the request as a whole is wrong.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field

    def within(self, prefix: str) -> InputError:
        """The same error with its field seen from outside: `audio` becomes `items[2].audio`."""
        separator = "" if self.field is None or self.field.startswith("[") else "."
        return type(self)(str(self), f"{prefix}{separator}{self.field or ''}")


class MalformedBody(InputError):
    """The body is not what its media type says (broken JSON, broken archive)."""


class TooLarge(InputError):
    """The body, or something in it, is larger than the server accepts."""


class UnsupportedMedia(InputError):
    """The media type of the body is not one that this route reads."""


class NotFound(ServiceError):
    """No model, version, adapter, index or item of that name."""


class Unauthorized(ServiceError):
    """No valid key came with the request."""


class Forbidden(ServiceError):
    """The key does not have the role that the route needs."""


class _RetryLater(ServiceError):
    """Attributes: retry_after: seconds after which trying again is sensible."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Overloaded(_RetryLater):
    """The queue of the model is full."""


class RateLimited(Overloaded):
    """The key has used up what its rate allows."""


class NotReady(_RetryLater):
    """The model is being loaded, or the server is draining."""


class DeadlineExceeded(ServiceError):
    """The deadline of the request passed before it was computed."""


class SlowRequest(DeadlineExceeded):
    """The body of the request did not come whole in the time there is for it."""


class Unreachable(ServiceError):
    """No connection to the server can be made, so nothing was sent."""


class EngineError(ServiceError):
    """The engine failed while it computed this item."""
