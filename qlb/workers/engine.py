"""What moves packets under the supervisor: worker processes, or a program in the kernel. It sees both alike."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from qlb.addresses import Endpoint
from qlb.dataplane.base import Orders
from qlb.routing.counters import Counters
from qlb.workers.slots import Slot


class Findings(NamedTuple):
    """Faults of the machine that keep packets from backends although the engine runs.

    notices: sentences for an operator. detached: interfaces where the XDP program is not attached. refused: backends
    that the kernel routes by an interface which accepts no packets from the program. is_cut_off: no backend can be
    reached, or some interface does not forward.
    """

    notices: tuple[str, ...] = ()
    detached: int = 0
    refused: int = 0
    is_cut_off: bool = False


class Engine(Protocol):
    """Forwards by the orders that it was given last."""

    @property
    def slots(self) -> Sequence[Slot]:
        """Where workers work; empty where there are none."""
        ...

    @property
    def counters(self) -> Sequence[Counters]:
        """What has been counted; their sum is what has happened."""
        ...

    @property
    def forwards(self) -> bool:
        """Whether packets are forwarded."""
        ...

    @property
    def applied(self) -> int:
        """The revision of the orders that is in force everywhere, at least; 0 before the first."""
        ...

    @property
    def findings(self) -> Findings | None:
        """Faults that the engine has found; None where it looks for none."""
        ...

    @property
    def is_fresh(self) -> bool:
        """Whether packets are forwarded, and some worker has shown so within the last seconds."""
        ...

    @property
    def behind(self) -> Sequence[str]:
        """What does not forward by the orders that were given last, one sentence each; empty if all does."""
        ...

    async def start(self, *, paused: bool = False) -> None:
        """Begin; returns when packets are forwarded. Raises OSError or QlbError.

        paused: have everything ready, but leave clients' packets to somebody else until resume().
        """
        ...

    async def pause(self) -> None:
        """Leave clients' packets to somebody else; replies that come here still go back. Returns when that is so."""
        ...

    async def resume(self) -> None:
        """Take clients' packets (again). Raises OSError or QlbError where that cannot be."""
        ...

    async def apply(self, orders: Orders, frame: bytes | None = None) -> Sequence[str]:
        """Forward by new orders; returns when that is so everywhere, or after a while what is behind.

        frame: the same orders as the workers' channel carries them, where they are packed already.
        """
        ...

    async def stop(self) -> None:
        """End."""
        ...

    async def explain(self, datagram: bytes, client: Endpoint) -> dict[str, object]:
        """Ask what moves packets itself what it would do with a client's datagram; nothing is sent or counted.

        Raises QlbError where it cannot be asked.
        """
        ...
