"""Work on an index that goes on beside its use: at most one at a time for an index, and for the process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from serving.index.base import Progress, Report
from wander.errors import WanderError

log = logging.getLogger(__name__)

TURN = threading.Semaphore()
"""Held by whoever is at work: several at once would share the cores and the disk, and none would be done sooner."""
PATIENCE_S = 0.1


class Stopped(Exception):
    """The index is closed; what was begun is not wanted any more."""


class Upkeep:
    """Attributes: progress: of the work that goes on, else how the last one ended."""

    def __init__(self, where: str) -> None:
        self.progress: Progress | None = None
        self._where = where
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._next: Callable[[Report], None] | None = None

    def start(self, work: Callable[[Report], None]) -> None:
        """Begins when what goes on is done; of several that wait for that, the last one."""
        with self._lock:
            if self._stopped.is_set():
                return
            self._next = work
            if not self.busy:
                self.progress = Progress("waiting")
                self._thread = threading.Thread(target=self._run, name=f"upkeep of {self._where}", daemon=True)
                self._thread.start()

    @property
    def busy(self) -> bool:
        return self.progress is not None and not self.progress.ended

    @property
    def failed(self) -> bool:
        return self.progress is not None and self.progress.stage == "failed"

    def report(self, stage: str, share: float) -> None:
        """Raises Stopped when there is no use in going on."""
        if self._stopped.is_set():
            raise Stopped
        self.progress = Progress(stage, share)

    def _run(self) -> None:
        while not TURN.acquire(timeout=PATIENCE_S):
            if self._stopped.is_set():
                return
        try:
            while True:
                with self._lock:
                    work, self._next = self._next, None
                assert work is not None
                ended = self._ended(work)
                with self._lock:
                    if self._stopped.is_set():
                        self._next = None
                    if self._next is None:
                        self.progress = ended
                        return
        finally:
            TURN.release()

    def _ended(self, work: Callable[[Report], None]) -> Progress:
        """Does it, and says how it ended."""
        try:
            self.report("starting", 0.0)
            work(self.report)
        except Stopped:
            return Progress("failed", 0.0, "the index was closed")
        except (WanderError, OSError) as error:
            log.error("%s could not be rebuilt: %s", self._where, error)
            return Progress("failed", 0.0, str(error))
        except Exception:  # whoever waits for the end must be told of it
            log.exception("%s could not be rebuilt", self._where)
            return Progress("failed", 0.0, "an unforeseen error; the log tells more")
        return Progress("done", 1.0)

    def stop(self) -> None:
        """Ends what goes on at its next step, and waits for it. Not to be called by the work itself."""
        with self._lock:
            self._stopped.set()
        if self._thread is not None:
            self._thread.join()
