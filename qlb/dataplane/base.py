"""What every data plane is: started once, given new snapshots while it runs, stopped once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from qlb.routing.snapshot import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaneSettings:
    """The bounds of a plane's own, disposable state; may change with every reload.

    session_timeout_s: seconds after which an idle session is closed if no routable packet has used it.
    routable_session_timeout_s: seconds for the other sessions; at least session_timeout_s applies.
    max_sessions: sessions of one worker. workers: processes that share the machine's local ports.
    flow_table_size: entries of each flow table, 0 = none. flow_timeout_s: seconds of an entry.
    dscp: of all packets that are sent, 0 to 63; None = as received.
    gso_to_backends: whether datagrams may go to backends many in one piece.
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
    """What a plane is to do from now on: a snapshot and the bounds that came with it."""

    snapshot: Snapshot
    settings: PlaneSettings


class Plane(Protocol):
    """One data plane, in the process of one worker."""

    def start(self) -> None:
        """Begin to forward."""
        ...

    def hold(self, held: bool) -> None:
        """Leave what clients send in the listeners, or read it again; replies go back all the while.

        Returns when that is so; may be called before start(), which then begins to forward replies alone.
        """
        ...

    def apply(self, orders: Orders) -> None:
        """Swap the snapshot between two packets; nothing that is in flight is dropped."""
        ...

    def stop(self) -> None:
        """Stop forwarding and close what the plane itself has opened."""
        ...


class PlaneFactory(Protocol):
    """How a plane is made; called in the worker's process, inside its event loop."""

    def __call__(self, listeners: Sequence[int], orders: Orders, counters_memory: memoryview) -> Plane:
        """listeners: descriptors of bound UDP sockets. counters_memory: of counters.SIZE_BYTES octets."""
        ...
