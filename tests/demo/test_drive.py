"""The demo driver: its counts, and its detection of losses."""

import pytest

from qlb.demo.backends import DemoBackend
from qlb.demo.drive import DemoReport, Journey, Plan, _check, drive, render
from qlb.demo.exchange import Answer
from qlb.errors import BackendError


async def test_routing_by_connection_id_loses_nothing(steered_port: int) -> None:
    """Six connections to three backends survive two address changes each, all during transfers."""
    report = await drive("127.0.0.1", steered_port, Plan(connections=6, rebinds=2, timeout_s=10))
    assert report.failures == ()
    assert (report.connections, report.rebinds, report.lost) == (6, 12, 0)
    assert sum(report.per_backend.values()) == 6
    assert [journey.requests for journey in report.journeys] == [5] * 6
    assert sum(journey.in_transfer for journey in report.journeys) == 12


async def test_lost_packets_lose_no_connection(lossy_port: int) -> None:
    """No connection is lost if every 20th datagram is, also while a new address is validated."""
    report = await drive("127.0.0.1", lossy_port, Plan(connections=4, rebinds=3, transfer_bytes=65_536, timeout_s=10))
    assert report.failures == ()
    assert (report.rebinds, report.lost) == (12, 0)


async def test_routing_by_address_loses_connections(scattered_port: int) -> None:
    """Behind a balancer that routes by address, the first address change loses the connection within the timeout."""
    report = await drive("127.0.0.1", scattered_port, Plan(connections=1, rebinds=2, timeout_s=0.8))
    assert (report.connections, report.rebinds, report.lost) == (1, 0, 1)
    assert report.failures == ("connection 0 at agent-a after 0 rebinds: no answer to a ping within 0.8 s",)


async def test_no_backend_answers(backends: list[DemoBackend]) -> None:
    """A connection that was never established counts as lost, without a backend."""
    port = backends[0].endpoint.port
    backends[0].server.close()
    report = await drive("127.0.0.1", port, Plan(connections=2, timeout_s=0.1))
    assert (report.lost, report.per_backend) == (2, {"(none)": 2})


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (Answer(200, "b", b"", 10), "answered by b"),
        (Answer(200, "", b"", 10), "answered by a server without a name"),
        (Answer(200, "a", b"", 9), "status 200 with 9 octets instead of 200 with 10"),
        (Answer(500, "a", b"", 10), "status 500 with 10 octets"),
    ],
)
def test_a_wrong_answer(answer: Answer, complaint: str) -> None:
    """An answer from another backend, without a name, of another length or with another status is a loss."""
    with pytest.raises(BackendError, match=complaint):
        _check(answer, Journey(backend="a"), 10)


def test_the_table() -> None:
    """The table has one line for each backend, the sums, and the reasons for the losses."""
    report = DemoReport(
        (
            Journey(backend="agent-b", requests=5, rebinds=2, in_transfer=2),
            Journey(backend="agent-a", requests=3, rebinds=1, in_transfer=1, failure="connection 1: gone"),
            Journey(backend="agent-b", requests=5, rebinds=2, in_transfer=1),
        )
    )
    assert render(report).splitlines() == [
        "backend  connections  requests  rebinds  in transfer  lost",
        "agent-a            1         3        1            1     1",
        "agent-b            2        10        4            3     0",
        "total              3        13        5            4     1",
        "lost: connection 1: gone",
    ]


def test_the_table_of_many_losses() -> None:
    """Only the first ten reasons are shown."""
    lines = render(DemoReport(tuple(Journey(failure="no connection") for _ in range(12)))).splitlines()
    assert lines[-1] == "lost: 2 more"
    assert lines.count("lost: no connection") == 10
