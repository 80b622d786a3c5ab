"""The rules by which results of probes become verdicts. Nothing here reads a clock or opens a socket.

A backend counts as healthy until its first result. That result decides alone, unless it is doubtful. After that, only
enough results in a row change the verdict, so that one lost packet moves no connections. A certain result (a connection
ID that leads elsewhere) is never chance and decides at once.
"""

import errno
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple


class Judgement:
    """The verdict on one backend."""

    __slots__ = ("_decided", "_streak", "healthy")

    def __init__(self) -> None:
        """Assume that the backend is healthy until the first result."""
        self.healthy = True
        self._decided = False
        self._streak = 0

    def begin_anew(self) -> None:
        """Let the next result decide alone: the earlier ones came from another kind of probe or another address."""
        self._decided, self._streak = False, 0

    def take(self, ok: bool, *, rise: int, fall: int, doubtful: bool = False, certain: bool = False) -> int:
        """Apply one result. Return how many results in a row have just changed the verdict; 0 = it is unchanged.

        rise: good results in a row that make it healthy. fall: bad ones that make it unhealthy.
        doubtful: this result never decides alone. certain: it always does.
        """
        if ok is self.healthy:
            self._decided, self._streak = True, 0
            return 0
        self._streak += 1
        alone = certain or (not self._decided and not doubtful)
        if not alone and self._streak < (rise if ok else fall):
            return 0
        results = self._streak
        self.healthy, self._decided, self._streak = ok, True, 0
        return results


class Fleet:
    """The verdicts on all backends, and the backends that are retained against their verdict.

    When all backends have failed within one round of probes, this node may be the cause. Those whose failure may be
    this node's fault are then retained: they count as healthy. So are those that answer with wrong connection IDs,
    however long ago that began: this node may have the wrong key, and their connections work until an address changes.
    Once a backend is healthy again, the others are retained for one more round. Times are seconds of one clock.
    """

    def __init__(self) -> None:
        """Start without any verdict: every backend counts as healthy."""
        self._down: dict[str, tuple[float, bool]] = {}
        """Unhealthy backends: since when, and whether the fault can be this node's. Infinity: with wrong IDs."""
        self._retained: dict[str, float] = {}
        """Retained backends: until when. Infinity until a backend is healthy again."""
        self._first_over_s = float("inf")
        """The earliest end in _retained."""

    @property
    def is_retaining(self) -> bool:
        """True while some backends are retained."""
        return bool(self._retained)

    def counts_as_healthy(self, name: str) -> bool:
        """Return whether new connections may go to a backend."""
        return name not in self._down or name in self._retained

    def take(
        self,
        name: str,
        healthy: bool,
        *,
        at_s: float,
        window_s: float,
        names: Iterable[str],
        reached: bool,
        has_wrong_ids: bool = False,
    ) -> None:
        """Apply a verdict on one backend.

        window_s: the longest time that one round of verdicts takes. With a window below 0, no backend is retained.
        names: all backends. reached: the backend or its host has answered. has_wrong_ids: it answers, with wrong IDs.
        """
        if healthy:
            self._down.pop(name, None)
            self._retained.pop(name, None)
            self._retained = {one: min(until_s, at_s + window_s) for one, until_s in self._retained.items()}
            self._first_over_s = min(self._retained.values(), default=float("inf"))
            return
        self._down[name] = (float("inf") if has_wrong_ids else at_s, has_wrong_ids or not reached)
        if window_s >= 0 and all(one in self._down for one in names):
            self._retained |= {
                one: float("inf")
                for one, (since_s, own_fault) in self._down.items()
                if own_fault and since_s >= at_s - window_s
            }

    def release(self, at_s: float) -> bool:
        """Release the retained backends whose time is over. Return whether there were any."""
        if at_s < self._first_over_s:
            return False  # called after every probe: thousands of times a second
        over = [one for one, until_s in self._retained.items() if until_s <= at_s]
        for one in over:
            del self._retained[one]
        self._first_over_s = min(self._retained.values(), default=float("inf"))
        return bool(over)

    def forget(self, names: Iterable[str]) -> None:
        """Remove backends that have left."""
        for name in names:
            self._down.pop(name, None)
            self._retained.pop(name, None)


log = logging.getLogger("qlb.health")

OWN_ERRORS: Final = frozenset(
    [
        errno.EAGAIN,  # no local port is left
        errno.EADDRNOTAVAIL,  # no address to send from, or no local port is left
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOBUFS,
        errno.ENOMEM,
        errno.ENOSPC,  # the event loop may watch no more sockets
    ]
)
"""Errors of a probe's socket that are this node's fault, whatever the backend does."""
NOT_PERMITTED: Final = "EPERM"
"""A local firewall rule, or a full connection tracking table. A rule may block clients' packets to one backend too.
Therefore this error counts as a failed probe, unless the backend answers clients."""


def own_error(error: BaseException) -> str:
    """Return the name of an error that this node, not the backend, has caused; "" for any other error."""
    if isinstance(error, MemoryError):
        return errno.errorcode[errno.ENOMEM]
    if isinstance(error, PermissionError) and error.errno == errno.EPERM:
        return NOT_PERMITTED
    number = error.errno if isinstance(error, OSError) else None
    return errno.errorcode[number] if number in OWN_ERRORS else ""


class Exchange(NamedTuple):
    """The packets of one backend since the start: forwarded to it and returned by it.

    counted_at_s: when they were counted. Two exchanges with the same time come from the same count.
    """

    forwarded: int = 0
    returned: int = 0
    counted_at_s: float = 0.0


class TrafficEvidence:
    """The answers of one backend to clients."""

    __slots__ = ("_answered_s", "_seen", "is_new", "was_asked")

    def __init__(self, seen: Exchange) -> None:
        """seen: the counts until now. Only later packets are evidence."""
        self._seen = seen
        self._answered_s = float("-inf")
        self.is_new = False
        """True if the last call of note() had newer counts than the one before."""
        self.was_asked = False
        """True if a packet was sent to the backend between these two counts."""

    def note(self, seen: Exchange, now_s: float) -> None:
        """Store the present counts."""
        self.is_new = seen.counted_at_s != self._seen.counted_at_s
        self.was_asked = seen.forwarded > self._seen.forwarded
        if seen.returned > self._seen.returned:
            self._answered_s = now_s
        self._seen = seen

    def has_answered(self, since_s: float) -> bool:
        """Return whether the backend was seen to answer a client at since_s or later."""
        return self._answered_s >= since_s


class OwnErrors:
    """Probes that this node could not send: their number, and the errors that occur now. Each kind is logged once."""

    def __init__(self) -> None:
        """Start without errors."""
        self._counts: Counter[str] = Counter()
        self._now: dict[str, str] = {}
        """Backend name → the error of its last probe."""

    @property
    def counts(self) -> Mapping[str, int]:
        """Name of the error → probes that it ended, since the start."""
        return dict(self._counts)

    @property
    def current(self) -> str:
        """The name of the error that ends probes now; "" while probes can be sent."""
        return next(reversed(self._now.values()), "")

    def take(self, name: str, error: str, detail: str) -> None:
        """Note how the last probe of a backend ended. error: its name; "" if the probe was sent."""
        if not error:
            if self._now.pop(name, "") and not self._now:
                log.info("this node can send probes again")
            return
        self._counts[error] += 1
        if error not in self._now.values():
            log.warning("this node cannot send probes", extra={"error": error, "backend": name, "detail": detail})
        self._now.pop(name, None)
        self._now[name] = error

    def forget(self, name: str) -> None:
        """Remove a backend that has left."""
        self._now.pop(name, None)
