"""How much one server does at a time, and for one client."""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager


class BusyError(Exception):
    """There is more to do than can be done soon.

    Attributes:
        seconds: After which it is worth trying again.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"busy; try again in {seconds:.0f} s")
        self.seconds = seconds


class TooManyError(BusyError):
    """This client has sent more than one may."""


class Gate:
    """Lets a few in at a time, a few more wait, and turns all others away.

    Args:
        inside: Requests that are worked on at a time.
        waiting: Requests that wait meanwhile.
        patience: Seconds that one waits at most.
    """

    def __init__(self, inside: int, waiting: int, patience: float) -> None:
        self._free = threading.Semaphore(inside)
        self._places = threading.Semaphore(inside + waiting)
        self._patience = patience

    @property
    def full(self) -> bool:
        """Whether one more would be turned away."""
        if free := self._places.acquire(blocking=False):
            self._places.release()
        return not free

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Hold a place inside.

        Raises:
            BusyError: There is none, nor one to wait at; or the wait was too long.
        """
        if not self._places.acquire(blocking=False):
            raise BusyError(1)
        try:
            if not self._free.acquire(timeout=self._patience):
                raise BusyError(self._patience)
            try:
                yield
            finally:
                self._free.release()
        finally:
            self._places.release()


class Rate:
    """Lets each client do so much a minute, in bursts as well (a token bucket each).

    Args:
        minute: Pictures a client may send in a minute; 0 for any number.
        clients: How many are remembered; the one that was away longest is forgotten first.
    """

    def __init__(self, minute: int, clients: int = 10_000) -> None:
        self._minute, self._clients = minute, clients
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, client: str, count: int = 1) -> None:
        """Count pictures of a client.

        Raises:
            TooManyError: It has sent too many.
        """
        if not self._minute:
            return
        now = time.monotonic()
        with self._lock:
            left, since = self._left.pop(client, (float(self._minute), now))
            left = min(float(self._minute), left + (now - since) * self._minute / 60)
            enough = left >= count
            self._left[client] = (left - count if enough else left, now)
            if len(self._left) > self._clients:
                self._left.popitem(last=False)
        if not enough:
            raise TooManyError(max(1.0, (min(count, self._minute) - left) * 60 / self._minute))
