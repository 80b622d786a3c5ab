"""The demo driver: many connections through a balancer, each changing its address in mid-transfer, none to be lost.

Every rebind comes while an answer is arriving: silently as behind a NAT, or on purpose with a new connection ID, in
turns. A connection is lost when a request on it fails, or when an answer comes from another backend than the first.
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
    """What to drive.

    connections: all at once, 1 or more. rebinds: of each connection, 0 or more. transfer_bytes: of the answer that
    is arriving at each rebind; far above 12,000, or it fits into the first flight and is there before the rebind.
    timeout_s: the longest that any one wait takes.
    """

    connections: int = 30
    rebinds: int = 2
    transfer_bytes: int = 256 * 2**10
    timeout_s: float = 20.0


@dataclass(slots=True)
class Journey:
    """What became of one connection. backend: where its first answer came from."""

    backend: str = _NO_BACKEND
    requests: int = 0
    rebinds: int = 0
    in_transfer: int = 0
    """Rebinds at which an answer was still arriving."""
    failure: str | None = None
    """Why it was lost."""


@dataclass(frozen=True, slots=True)
class DemoReport:
    """What became of them all."""

    journeys: tuple[Journey, ...]

    @property
    def connections(self) -> int:
        """Connections tried."""
        return len(self.journeys)

    @property
    def rebinds(self) -> int:
        """Changes of address after which the server answered."""
        return sum(journey.rebinds for journey in self.journeys)

    @property
    def lost(self) -> int:
        """Connections lost: 0 is success."""
        return len(self.failures)

    @property
    def failures(self) -> tuple[str, ...]:
        """Why each lost connection was lost."""
        return tuple(journey.failure for journey in self.journeys if journey.failure is not None)

    @property
    def per_backend(self) -> dict[str, int]:
        """Connections by the backend that answered first."""
        return dict(sorted(Counter(journey.backend for journey in self.journeys).items()))


async def drive(host: str, port: int, plan: Plan | None = None) -> DemoReport:
    """Drive connections through whatever listens at host and port; never raises for what the network does.

    Spec: RFC 9000, section 9 (connection migration).
    """
    plan = plan or Plan()
    journeys = tuple(Journey() for _ in range(plan.connections))
    async with asyncio.TaskGroup() as group:
        for number, journey in enumerate(journeys):
            group.create_task(_travel(host, port, plan, number, journey))
    return DemoReport(journeys)


def render(report: DemoReport) -> str:
    """Return the report as one table of plain text, a backend a line, and the reasons of what was lost."""
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
        raise BackendError(f"answered by {answer.backend or 'no backend that gives its name'}")
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
