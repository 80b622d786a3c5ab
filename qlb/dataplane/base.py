"""The interface of a worker's data plane: it starts once, applies new orders while it runs, and stops once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from qlb.routing.snapshot import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaneSettings:
    """Bounds of a plane's own state, which may be lost at any time. They may change with every reload.

    session_timeout_s: the plane closes an idle session after it, if no routable packet has used the session.
    routable_session_timeout_s: the same for the other sessions; at least session_timeout_s applies.
    max_sessions: of one worker; the plane opens fewer if the system grants fewer.
    workers: processes that share the machine's local ports.
    flow_table_size: entries of each flow table, 0 = none. flow_timeout_s: life of an entry.
    dscp: of all sent packets, 0 to 63; None = as received.
    gso_to_backends: allow one call to send several datagrams to a backend (UDP GSO).
    """

    session_timeout_s: float
    routable_session_timeout_s: float
    workers: int
    dscp: int | None
    max_sessions: int
    flow_table_size: int
    flow_timeout_s: float
    gso_to_backends: bool


@dataclass(frozen=True, slots=True)
class Orders:
    """A snapshot and the settings that came with it. A plane forwards by the orders that it applied last."""

    snapshot: Snapshot
    settings: PlaneSettings


class Plane(Protocol):
    """One data plane, in the process of one worker."""

    def start(self) -> None:
        """Start to forward."""
        ...

    def pause(self) -> None:
        """Stop reading from clients; replies still go to clients. Return when it has taken effect.

        A plane that is paused before start() forwards only replies at first.
        """
        ...

    def resume(self) -> None:
        """Read from clients again. Return when it has taken effect."""
        ...

    def apply(self, orders: Orders) -> None:
        """Apply new orders between two packets, without dropping any."""
        ...

    def stop(self) -> None:
        """Stop forwarding. Close the listeners' descriptors and everything that the plane has opened."""
        ...


class PlaneFactory(Protocol):
    """The call that makes a plane, in the worker's process and inside its event loop."""

    def __call__(self, listeners: Sequence[int], orders: Orders, counters_memory: memoryview) -> Plane:
        """Return a plane. listeners: descriptors of bound UDP sockets. counters_memory: counters.SIZE_BYTES octets."""
        ...
