"""Whether a backend counts as healthy, from the results of its probes alone: no clock, no socket.

Until the first result a backend is taken to be what it was, at first healthy; that result decides alone,
unless it is doubtful. Afterwards only enough results in a row turn it, so that one lost packet moves no
connections; but what is certain (a connection ID that leads elsewhere) is never chance.
"""

import errno
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple


class Judgement:
    """What is held of one backend."""

    __slots__ = ("_decided", "_streak", "healthy")

    def __init__(self) -> None:
        """Take it for healthy until the first result."""
        self.healthy = True
        self._decided = False
        self._streak = 0

    def begin_anew(self) -> None:
        """Let the next result decide alone: the earlier ones were found in another way or somewhere else."""
        self._decided, self._streak = False, 0

    def take(self, ok: bool, *, rise: int, fall: int, doubtful: bool = False, certain: bool = False) -> int:
        """Take in one result. Returns how many in a row have turned the judgement now; 0 = it stands.

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
    """The verdicts on all backends, and which of them count. Times: seconds of one clock."""

    def __init__(self) -> None:
        """Everybody counts as healthy until a verdict."""
        self._down: dict[str, tuple[float, bool]] = {}
        """Unhealthy backends: since when, and whether the fault can be this node's."""
        self._held: dict[str, float] = {}
        """Backends that count as healthy against their verdict: until when, once another is healthy again."""
        self._first_over_s = float("inf")
        """No held backend's time is over before this."""

    @property
    def failing(self) -> bool:
        """Whether some backends are held."""
        return bool(self._held)

    def counts_as_healthy(self, name: str) -> bool:
        """Say whether new connections may go to a backend."""
        return name not in self._down or name in self._held

    def take(
        self, name: str, healthy: bool, *, at_s: float, window_s: float, everybody: Iterable[str], reached: bool
    ) -> None:
        """Take in a verdict on one backend.

        window_s: how long one round of verdicts can take. everybody: all backends. reached: the backend or its host
        has answered. With a window below 0 nobody is ever held.
        """
        if healthy:
            self._down.pop(name, None)
            self._held.pop(name, None)
            self._held = {held: min(until_s, at_s + window_s) for held, until_s in self._held.items()}
            self._first_over_s = min(self._held.values(), default=float("inf"))
            return
        self._down[name] = (at_s, not reached)
        if all(one in self._down for one in everybody):
            self._held |= {
                one: float("inf")
                for one, (since_s, own_fault) in self._down.items()
                if own_fault and since_s >= at_s - window_s
            }

    def release(self, at_s: float) -> bool:
        """Let go of those whose time is over; return whether there were any."""
        if at_s < self._first_over_s:
            return False  # asked after every probe: thousands of times a second
        over = [held for held, until_s in self._held.items() if until_s <= at_s]
        for held in over:
            del self._held[held]
        self._first_over_s = min(self._held.values(), default=float("inf"))
        return bool(over)

    def forget(self, names: Iterable[str]) -> None:
        """Drop backends that have left."""
        for name in names:
            self._down.pop(name, None)
            self._held.pop(name, None)


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
"""Errors of a probe's socket that are this node's fault whatever the backend does."""
NOT_PERMITTED: Final = "EPERM"
"""A local firewall rule, or a full connection tracking table. A rule may stop clients' packets to one backend too, so
this error does count as a failed probe, unless clients' packets are answered."""


def own_error(error: BaseException) -> str:
    """Return the name of an error that this node, not the backend, is the cause of; "" for any other."""
    if isinstance(error, MemoryError):
        return errno.errorcode[errno.ENOMEM]
    if isinstance(error, PermissionError) and error.errno == errno.EPERM:
        return NOT_PERMITTED
    number = error.errno if isinstance(error, OSError) else None
    return errno.errorcode[number] if number in OWN_ERRORS else ""


class Exchange(NamedTuple):
    """Packets of one backend since the start: forwarded to it, and returned by it.

    counted_at_s: when they were counted; the same for as long as they were not counted again.
    """

    forwarded: int = 0
    returned: int = 0
    counted_at_s: float = 0.0


class TrafficEvidence:
    """Answers of one backend to clients."""

    __slots__ = ("_answered_s", "_seen", "is_new", "was_asked")

    def __init__(self, seen: Exchange) -> None:
        """seen: the counts until now; only what comes on top of them is evidence."""
        self._seen = seen
        self._answered_s = float("-inf")
        self.is_new = False
        """Whether the last note had other counts than the one before it."""
        self.was_asked = False
        """Whether a packet has gone to the backend between those."""

    def note(self, seen: Exchange, now_s: float) -> None:
        """Take in the counts of now."""
        self.is_new = seen.counted_at_s != self._seen.counted_at_s
        self.was_asked = seen.forwarded > self._seen.forwarded
        if seen.returned > self._seen.returned:
            self._answered_s = now_s
        self._seen = seen

    def has_answered(self, since_s: float) -> bool:
        """Return whether the backend was seen to answer since then."""
        return self._answered_s >= since_s


class OwnErrors:
    """Probes that this node could not send: how many, and whether that is so now. Each kind is logged once."""

    def __init__(self) -> None:
        """There were none."""
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
        """Drop a backend that has left."""
        self._now.pop(name, None)
