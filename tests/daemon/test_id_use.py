"""The watch for servers whose packets never have an ID that decodes."""

import logging
from collections.abc import Sequence

import pytest

from qlb.addresses import Endpoint
from qlb.daemon.meter import IdUse
from qlb.daemon.rows import Row
from qlb.routing.backends import Backend


class Stage:
    """Three backends, on a clock that the test sets. The last one has no server ID."""

    def __init__(self) -> None:
        """Start without packets."""
        self.now_s = 0.0
        self.use = IdUse(now=lambda: self.now_s)
        ids = {1: (b"abcd",)}
        self.backends: list[Backend | None] = [
            Backend("a", Endpoint("192.0.2.1", 443), ids),
            Backend("b", Endpoint("192.0.2.2", 443), ids),
            Backend("plain", Endpoint("192.0.2.3", 443)),
        ]
        self.counts = [[0, 0, 0] for _ in self.backends]

    def run(self, seconds: int, *each: Sequence[int], has_flows: bool = True) -> None:
        """Let each backend get these numbers of packets by ID, flow and fallback every second."""
        for _ in range(seconds):
            for counts, more in zip(self.counts, each, strict=False):
                counts[:] = map(sum, zip(counts, more, strict=True))
            rows = [Row((by_cid, flow, other)) for by_cid, flow, other in self.counts]
            self.use.note(self.backends, rows, has_flows=has_flows)
            self.now_s += 1.0

    @property
    def missing(self) -> list[str]:
        """Return the backends that get no packets by ID."""
        return [name for name in ("a", "b", "plain") if self.use.is_missing(name)]


@pytest.fixture
def stage() -> Stage:
    """Return a new stage."""
    return Stage()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the backends that were logged. "" stands for one message about all backends."""
    return [vars(record).get("backend", "") for record in caplog.records if record.levelno == logging.WARNING]


def test_one_backend_issues_other_ids(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """A backend without packets by ID is logged once, after a minute. One without server IDs is never logged."""
    stage.run(60, (5, 5, 1), (0, 10, 1), (0, 10, 1))
    assert (stage.missing, stage.use.none_at_all, warnings(caplog)) == ([], False, [])
    stage.run(2, (5, 5, 1), (0, 10, 1), (0, 10, 1))
    assert (stage.missing, stage.use.none_at_all, warnings(caplog)) == (["b"], False, ["b"])
    stage.run(600, (5, 5, 1), (0, 10, 1), (0, 10, 1))
    assert (stage.missing, warnings(caplog)) == (["b"], ["b"])


def test_no_backend_issues_ids_that_decode(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """If no backend gets packets by ID, one line reports it for all."""
    stage.run(62, (0, 5, 1), (0, 10, 1))
    assert (stage.missing, stage.use.none_at_all, warnings(caplog)) == (["a", "b"], True, [""])


def test_little_traffic_for_each_of_many_backends(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """With little traffic for each of many backends, only the message about all is logged."""
    for _ in range(40):
        stage.run(1, (0, 1, 0))
        stage.run(1, (0, 0, 0), (0, 1, 0))
    assert (stage.missing, stage.use.none_at_all, warnings(caplog)) == ([], True, [""])


def test_one_packet_by_id_is_enough(stage: Stage) -> None:
    """One packet by ID ends the finding, and the minute starts again."""
    stage.run(70, (0, 10, 0), (1, 1, 1))
    assert stage.missing == ["a"]
    stage.run(1, (1, 10, 0), (1, 1, 1))
    assert stage.missing == []
    stage.run(60, (0, 10, 0), (1, 1, 1))
    assert stage.missing == []
    stage.run(2, (0, 10, 0), (1, 1, 1))
    assert stage.missing == ["a"]


@pytest.mark.parametrize(
    "each",
    [
        pytest.param((0, 0, 0), id="idle"),
        pytest.param((0, 0, 1000), id="a flood of spoofed first packets"),
        pytest.param((1000, 1000, 0), id="as it should be"),
    ],
)
def test_traffic_that_is_never_reported(stage: Stage, each: Sequence[int], caplog: pytest.LogCaptureFixture) -> None:
    """Idle backends, floods of first packets, and packets by ID are never reported."""
    stage.run(300, each, each, each)
    assert (stage.missing, stage.use.none_at_all, warnings(caplog)) == ([], False, [])


def test_a_short_demo_is_quiet(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """Half a minute of packets with pauses is never reported."""
    for _ in range(5):
        stage.run(30, (0, 100, 1))
        stage.run(15)
    assert (stage.missing, warnings(caplog)) == ([], [])


def test_without_flow_tables_the_fallback_counts(stage: Stage) -> None:
    """Without flow tables, packets by the fallback count, because all packets of a connection use it."""
    stage.run(62, (0, 0, 10), (1, 0, 10), has_flows=False)
    assert stage.missing == ["a"]


def test_the_warning_is_repeated_after_an_hour(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """The warning is repeated after an hour, not after each pause of the traffic."""
    for _ in range(30):
        stage.run(100, (0, 10, 0), (1, 1, 1))
        stage.run(20, (0, 0, 0), (1, 1, 1))
    assert warnings(caplog) == ["a"]
    stage.run(100, (0, 10, 0), (1, 1, 1))
    assert warnings(caplog) == ["a", "a"]


def test_a_backend_that_left_is_forgotten(stage: Stage) -> None:
    """A removed backend is forgotten, because its name may return with another server."""
    stage.run(70, (0, 10, 0), (1, 1, 1))
    stage.backends[0] = None
    stage.run(1)
    assert (stage.missing, list(stage.use._watched)) == ([], ["b"])
