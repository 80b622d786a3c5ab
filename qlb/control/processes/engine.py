"""What moves packets under the supervisor: worker processes, or a program in the kernel. It sees both alike."""

from collections.abc import Sequence
from typing import Protocol

from qlb.control.processes.workers import Place
from qlb.dataplane.base import Orders
from qlb.routing.backends import Endpoint
from qlb.routing.counters import Counters


class Engine(Protocol):
    """Forwards by the orders that it was given last."""

    @property
    def places(self) -> Sequence[Place]:
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

    async def start(self, *, held: bool = False) -> None:
        """Begin; returns when packets are forwarded. Raises OSError or QlbError.

        held: have everything ready, but leave clients' packets to somebody else until resume().
        """
        ...

    async def hold(self) -> None:
        """Leave clients' packets to somebody else; replies that come here still go back. Returns when that is so."""
        ...

    async def resume(self) -> None:
        """Take clients' packets (again). Raises OSError or QlbError where that cannot be."""
        ...

    async def apply(self, orders: Orders, frame: bytes | None = None) -> None:
        """Forward by new orders; returns when that is so everywhere.

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
