"""The interface of an engine, which forwards for the supervisor: worker processes, or a program in the kernel."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from qlb.addresses import Endpoint
from qlb.dataplane.base import Orders
from qlb.routing.counters import Counters
from qlb.workers.slots import Slot


class Findings(NamedTuple):
    """Faults of the machine because of which packets do not reach backends although the engine runs.

    notices: sentences for an operator. detached: number of interfaces where the XDP program is not attached. refused:
    number of backends behind an interface that accepts no packets from the program. is_cut_off: no backend can be
    reached, or an interface does not forward.
    """

    notices: tuple[str, ...] = ()
    detached: int = 0
    refused: int = 0
    is_cut_off: bool = False


class Engine(Protocol):
    """Forwards packets by the orders that it applied last."""

    @property
    def slots(self) -> Sequence[Slot]:
        """The workers' slots; empty if there are no workers."""
        ...

    @property
    def counters(self) -> Sequence[Counters]:
        """The counters of each worker, or of the kernel. Their sum counts all packets."""
        ...

    @property
    def forwards(self) -> bool:
        """True if packets are forwarded."""
        ...

    @property
    def applied(self) -> int:
        """The lowest revision by which any part forwards; 0 before the first orders."""
        ...

    @property
    def findings(self) -> Findings | None:
        """The faults that the engine has found; None if it does not look for any."""
        ...

    @property
    def is_fresh(self) -> bool:
        """True if packets are forwarded, and a worker has stamped its heartbeat in the last seconds."""
        ...

    @property
    def behind(self) -> Sequence[str]:
        """A sentence for each part that does not forward by the latest orders; empty if there is none."""
        ...

    async def start(self, *, paused: bool = False) -> None:
        """Start, and return when packets are forwarded. Raises OSError or QlbError.

        paused: prepare everything, but do not read from clients before resume(): another process does.
        """
        ...

    async def pause(self) -> None:
        """Stop reading from clients, so that another process can; replies continue. Return when it has taken effect."""
        ...

    async def resume(self) -> None:
        """Start to read from clients, or read again. Raises OSError or QlbError if that fails."""
        ...

    async def apply(self, orders: Orders, frame: bytes | None = None) -> Sequence[str]:
        """Apply new orders. Return `behind` when all parts forward by them, or after a timeout.

        frame: the same orders, packed for the workers' channel; None if they are not packed yet.
        """
        ...

    async def stop(self) -> None:
        """Stop forwarding and end all workers."""
        ...

    async def explain(self, datagram: bytes, client: Endpoint) -> dict[str, object]:
        """Ask the engine for its decision about a client's datagram, without sending or counting it.

        Raises QlbError if this engine cannot answer.
        """
        ...
