"""The demo driver: many connections through a balancer, each of which changes its address during transfers.

Every address change happens while an answer arrives. Silent changes, as behind a NAT, alternate with migrations to a
new connection ID. A connection counts as lost if a request on it fails, or if another backend answers than at first.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Final

from qlb.demo.client import DemoClient, connect
from qlb.demo.exchange import Answer
from qlb.errors import BackendError

_NO_BACKEND: Final = "(none)"
_SHOWN_FAILURES: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The size of a demo.

    connections: 1 or more, all at the same time. rebinds: address changes of each connection, 0 or more.
    transfer_bytes: length of the answer that arrives during an address change; far above 12,000, or the answer fits
    into the first flight and arrives before the change. timeout_s: the limit of every wait.
    """

    connections: int = 30
    rebinds: int = 2
    transfer_bytes: int = 256 * 2**10
    timeout_s: float = 20.0


@dataclass(slots=True)
class Journey:
    """The result of one connection. backend: the sender of its first answer."""

    backend: str = _NO_BACKEND
    requests: int = 0
    rebinds: int = 0
    in_transfer: int = 0
    """Address changes during which an answer was still arriving."""
    failure: str | None = None
    """The reason for its loss; None if it was not lost."""


@dataclass(frozen=True, slots=True)
class DemoReport:
    """The results of all connections."""

    journeys: tuple[Journey, ...]

    @property
    def connections(self) -> int:
        """Return the number of connections."""
        return len(self.journeys)

    @property
    def rebinds(self) -> int:
        """Return the number of address changes after which the server answered."""
        return sum(journey.rebinds for journey in self.journeys)

    @property
    def lost(self) -> int:
        """Return the number of lost connections: 0 is success."""
        return len(self.failures)

    @property
    def failures(self) -> tuple[str, ...]:
        """Return the reason for each lost connection."""
        return tuple(journey.failure for journey in self.journeys if journey.failure is not None)

    @property
    def per_backend(self) -> dict[str, int]:
        """Return the number of connections by the backend that answered first."""
        return dict(sorted(Counter(journey.backend for journey in self.journeys).items()))


async def drive(host: str, port: int, plan: Plan | None = None) -> DemoReport:
    """Drive connections through the balancer at host and port. Failures of the network are results, not errors.

    Spec: RFC 9000, section 9 (connection migration).
    """
    plan = plan or Plan()
    journeys = tuple(Journey() for _ in range(plan.connections))
    async with asyncio.TaskGroup() as group:
        for number, journey in enumerate(journeys):
            group.create_task(_travel(host, port, plan, number, journey))
    return DemoReport(journeys)


def render(report: DemoReport) -> str:
    """Return the report as a table with one line for each backend, and the reasons for the losses."""
    rows: list[tuple[str, ...]] = [("backend", "connections", "requests", "rebinds", "in transfer", "lost")]
    rows += [
        _row(name, [journey for journey in report.journeys if journey.backend == name]) for name in report.per_backend
    ]
    rows.append(_row("total", list(report.journeys)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
    lines += [f"lost: {failure}" for failure in report.failures[:_SHOWN_FAILURES]]
    if report.lost > _SHOWN_FAILURES:
        lines.append(f"lost: {report.lost - _SHOWN_FAILURES} more")
    return "\n".join(lines)


async def _travel(host: str, port: int, plan: Plan, number: int, journey: Journey) -> None:
    try:
        async with connect(host, port, timeout_s=plan.timeout_s) as client:
            journey.backend = (await client.get("/")).backend
            journey.requests += 1
            for turn in range(plan.rebinds):
                await _rebind_in_transfer(client, plan, journey, new_connection_id=bool((number + turn) % 2))
    except (BackendError, OSError) as error:
        journey.failure = f"connection {number} at {journey.backend} after {journey.rebinds} rebinds: {error}"


async def _rebind_in_transfer(client: DemoClient, plan: Plan, journey: Journey, *, new_connection_id: bool) -> None:
    transfer = client.request(f"/bytes/{plan.transfer_bytes}")
    await transfer.at_least(1)
    journey.in_transfer += not transfer.ended
    await client.rebind(new_connection_id=new_connection_id)
    journey.rebinds += 1
    _check(await transfer.answer(), journey, plan.transfer_bytes)
    _check(await client.get("/"), journey, len(journey.backend) + 1)


def _check(answer: Answer, journey: Journey, length: int) -> None:
    journey.requests += 1
    if answer.backend != journey.backend:
        raise BackendError(f"answered by {answer.backend or 'a server without a name'}")
    if (answer.status, answer.length) != (200, length):
        raise BackendError(f"status {answer.status} with {answer.length} octets instead of 200 with {length}")


def _row(name: str, journeys: list[Journey]) -> tuple[str, ...]:
    return (
        name,
        str(len(journeys)),
        str(sum(journey.requests for journey in journeys)),
        str(sum(journey.rebinds for journey in journeys)),
        str(sum(journey.in_transfer for journey in journeys)),
        str(sum(journey.failure is not None for journey in journeys)),
    )


def _aligned(row: tuple[str, ...], widths: list[int]) -> list[str]:
    name, *numbers = row
    return [name.ljust(widths[0]), *(number.rjust(width) for number, width in zip(numbers, widths[1:], strict=True))]
