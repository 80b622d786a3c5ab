"""Evidence beside the probes: answers of a backend to real traffic, and errors of this node's own sockets.

Both can overrule a probe. A backend that answers clients is alive, even if its server never answers the probe that was
chosen. A probe that this node could not send says nothing about the backend.
"""

import errno
import logging
from collections import Counter
from collections.abc import Mapping
from typing import Final, NamedTuple

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
