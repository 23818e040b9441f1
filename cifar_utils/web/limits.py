"""How much one server does at a time, and for one client."""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from cifar_utils.errors import CifarUtilsError, ParameterError


class BusyError(CifarUtilsError):
    """There is more to do than can be done soon.

    Attributes:
        seconds: After which it is worth trying again.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = math.ceil(seconds)
        super().__init__(f"busy; try again in {self.seconds} s")


class TooManyError(BusyError):
    """This client has sent more than one may."""


class ConcurrencyLimit:
    """Lets a few in at a time, a few more wait, and turns all others away.

    Args:
        concurrency: Requests that are worked on at a time.
        queue: Requests that wait meanwhile.
        seconds: That one waits at most.
    """

    def __init__(self, concurrency: int, queue: int, seconds: float) -> None:
        self._working = threading.Semaphore(concurrency)
        self._places, self._seconds = concurrency + queue, seconds
        self._taken = 0
        self._counting = threading.Lock()

    @property
    def full(self) -> bool:
        """Whether one more would be turned away."""
        return self._taken >= self._places

    def _count(self, change: int) -> None:
        with self._counting:
            if change > 0 and self.full:
                raise BusyError(1)
            self._taken += change

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Be worked on.

        Raises:
            BusyError: There is no place to wait at, or the wait was too long.
        """
        self._count(1)
        try:
            if not self._working.acquire(timeout=self._seconds):
                raise BusyError(self._seconds)
            try:
                yield
            finally:
                self._working.release()
        finally:
            self._count(-1)


class RateLimit:
    """Lets each client do so much a minute, in bursts as well (a token bucket each).

    Args:
        per_minute: Pictures that a client may send in a minute; 0 for any number.
        clients: How many are remembered; the one that was away longest is forgotten first.

    Raises:
        ParameterError: The number is below 0.
    """

    def __init__(self, per_minute: int, clients: int = 10_000) -> None:
        if per_minute < 0:
            raise ParameterError(f"{per_minute} pictures a minute: expected 0, for any, or more")
        self._per_minute, self._clients = per_minute, clients
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, client: str, count: int = 1) -> None:
        """Count pictures of a client.

        Raises:
            TooManyError: It has sent too many.
            ParameterError: So many are never allowed at a time.
        """
        if not self._per_minute:
            return
        if count > self._per_minute:
            raise ParameterError(
                f"{count} pictures were sent; at most {self._per_minute} a minute are taken"
            )
        now, full = time.monotonic(), float(self._per_minute)
        with self._lock:
            left, since = self._left.pop(client, (full, now))
            left = min(full, left + (now - since) * full / 60)
            enough = left >= count
            self._left[client] = (left - count if enough else left, now)
            if len(self._left) > self._clients:
                self._left.popitem(last=False)
        if not enough:
            raise TooManyError((count - left) * 60 / full)
