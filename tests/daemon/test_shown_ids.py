"""The faults of servers' connection IDs that the traffic shows: what is a finding, and what never is."""

import dataclasses
import logging
import random
from collections.abc import Sequence

import pytest

from qlb.addresses import Endpoint
from qlb.cid import CidCodec, CidGenerator, CidParams
from qlb.daemon.shown_ids import (
    AGAIN_S,
    BULK_PACKETS,
    BULK_S,
    CALM_S,
    ENOUGH_RIGHT,
    KNOWN_PACKETS,
    QUIET_S,
    ShownIds,
    unknown_ids,
)
from qlb.health.probe import Pool, Target
from qlb.routing.backends import Backend
from qlb.routing.counters import SIZE_BYTES, Counters
from qlb.routing.shown import RIGHT, UNROUTABLE, WRONG

PARAMS = CidParams(1, 4, 12, bytes(range(16)))
IDS = {"a": b"\xc0\xff\xee\x01", "b": b"\xc0\xff\xee\x02"}
OTHER_KEY = CidGenerator(dataclasses.replace(PARAMS, key=bytes(16)), IDS["a"])
CALM_LINE = "a backend shows right connection IDs to clients again"
WRONG_LINE = "a backend shows wrong connection IDs to clients"
UNKNOWN_LINE = "clients of a backend send server IDs of no backend"
BULK_LINE = "packets arrive in bulk with server IDs of no backend"


class Stage:
    """Two workers, two backends with server IDs and one without, and a clock that the test sets."""

    def __init__(self) -> None:
        """Start without packets."""
        self.now_s = 1000.0
        self.workers = [Counters(bytearray(SIZE_BYTES)) for _ in range(2)]
        self.names: Sequence[str] = ("a", "b", "plain")
        pool = Pool({1: CidCodec(PARAMS)}, {(1, one): name for name, one in IDS.items()})
        ids: dict[str, dict[int, tuple[bytes, ...]]] = {"a": {1: (IDS["a"],)}, "b": {1: (IDS["b"],)}, "plain": {}}
        self.targets = {name: Target(name, Endpoint("192.0.2.1", 443), ids[name], pool) for name in self.names}
        self.backends: list[Backend | None] = [
            Backend(name, Endpoint("192.0.2.1", 443), ids[name]) for name in self.names
        ]
        self.probed: dict[str, int] = {}
        self.findings: dict[str, str] = {}
        self.revision = 1
        self.shown = ShownIds(self, now=lambda: self.now_s)
        self.note()

    def target(self, name: str) -> Target | None:
        """Return a backend as probes see it."""
        return self.targets.get(name)

    def right_ids(self, name: str) -> int:
        """Return the probes with right IDs."""
        return self.probed.get(name, 0)

    def finding(self, name: str) -> str:
        """Return the finding of a probe."""
        return self.findings.get(name, "")

    def note(self, seconds: float = 1.0) -> None:
        """Note the counters, and let the time pass."""
        self.shown.note(self.workers, self.backends, self.names, self.revision)
        self.now_s += seconds

    def show(self, kind: int, times: int = 1, index: int = 0, cid: bytes = b"") -> None:
        """Let a backend show IDs, half of them in each worker. Note them."""
        for number in range(times):
            self.workers[number % 2].count_shown(kind, index, cid or OTHER_KEY.generate())
        self.note()

    def send(self, packets: int, index: int | None = 0, received: int = 0) -> None:
        """Let clients send packets with unknown IDs. index: of the backend that knows them. received: of all kinds."""
        self.workers[0].count_received(received or packets, 0)
        for _ in range(packets):
            self.workers[0].count_unknown(1, int(self.now_s * 1000))
            if index is not None:
                self.workers[0].count_unknown_of(index)
        self.note()


@pytest.fixture
def stage(caplog: pytest.LogCaptureFixture) -> Stage:
    """Return a new stage."""
    caplog.set_level(logging.INFO)
    return Stage()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the events of the log."""
    return [record.message for record in caplog.records]


def test_one_wrong_id_is_a_finding(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """The finding names the ID, the expected server ID and the source. One right ID ends it."""
    stage.show(WRONG)
    text = stage.shown.finding("a")
    assert "no backend's (has the server another key?); expected c0ffee01 (config 1)" in text
    assert text.endswith("; seen in answers to clients, so it still gets new connections")
    assert stage.shown.finding("b") == stage.shown.finding("plain") == stage.shown.finding("nobody") == ""
    stage.show(WRONG, 50)
    assert lines(caplog) == [WRONG_LINE]
    stage.show(RIGHT)
    assert stage.shown.finding("a") == ""
    assert lines(caplog) == [WRONG_LINE, CALM_LINE]


def test_a_probe_with_right_ids_ends_the_finding(stage: Stage) -> None:
    """A server without clients is found to be corrected by a probe."""
    stage.show(WRONG)
    stage.probed["a"] = 1
    stage.note()
    assert stage.shown.finding("a") == ""


def test_an_exception_is_no_finding(stage: Stage) -> None:
    """A server that shows right IDs needs two wrong ones, with fewer than eight right ones or ten seconds between."""
    stage.show(RIGHT, 3)
    stage.show(WRONG)
    assert stage.shown.finding("a") == ""
    stage.show(RIGHT, ENOUGH_RIGHT)
    stage.show(WRONG)
    assert stage.shown.finding("a") == ""
    stage.show(WRONG)
    assert stage.shown.finding("a")


def test_two_processes_on_one_port(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """A server that shows right and wrong IDs in turn has a finding all the time, and one line in the log."""
    dice = random.Random(7)
    for _ in range(10):
        stage.show(dice.choice((RIGHT, WRONG)))
    for _ in range(100):
        stage.show(dice.choice((RIGHT, WRONG)))
        assert stage.shown.finding("a") or lines(caplog).count(CALM_LINE)
    assert lines(caplog).count(WRONG_LINE) == 1
    stage.show(WRONG, 2)
    stage.show(RIGHT)
    assert stage.shown.finding("a")
    stage.now_s += CALM_S
    stage.show(RIGHT)
    assert stage.shown.finding("a") == ""


def test_a_repeated_fault_is_logged_after_an_hour(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """A fault that returns is a finding at once, but is in the log only once an hour."""
    for pause_s in (0.0, AGAIN_S / 2, AGAIN_S / 2, 0.0):
        stage.now_s += pause_s
        stage.show(WRONG, 2)
        assert stage.shown.finding("a")
        stage.show(RIGHT, ENOUGH_RIGHT)
    assert lines(caplog).count(WRONG_LINE) == 2


def test_a_probe_s_finding_is_not_logged_twice(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """If a probe has a finding already, the log has no second line."""
    stage.findings["a"] = "wrong"
    stage.show(WRONG)
    assert stage.shown.finding("a")
    assert lines(caplog) == []


def test_a_corrected_configuration_ends_the_finding(stage: Stage) -> None:
    """If the stored ID is right under the present configuration, there is no finding, and none is left over."""
    cid = CidGenerator(PARAMS, IDS["b"]).generate()
    stage.show(WRONG, cid=cid)
    assert "c0ffee02, b's" in stage.shown.finding("a")
    stage.targets["a"] = dataclasses.replace(stage.targets["a"], server_ids={1: (IDS["a"], IDS["b"])})
    stage.revision += 1
    stage.note()
    assert stage.shown.finding("a") == ""
    stage.note()
    assert stage.shown.finding("a") == ""


def test_a_new_cid_config_ends_the_finding(stage: Stage) -> None:
    """The same holds if only the CID configs change."""
    late = dataclasses.replace(PARAMS, config_id=2)
    stage.show(WRONG, cid=CidGenerator(late, IDS["a"]).generate())
    assert "carries config ID 2, which is not configured here" in stage.shown.finding("a")
    pool = Pool({1: CidCodec(PARAMS), 2: CidCodec(late)}, {(1, IDS["a"]): "a", (2, IDS["a"]): "a"})
    stage.targets["a"] = dataclasses.replace(stage.targets["a"], server_ids={1: (IDS["a"],), 2: (IDS["a"],)}, pool=pool)
    stage.revision += 1
    stage.note()
    assert stage.shown.finding("a") == ""


def test_another_backend_at_the_index(stage: Stage) -> None:
    """The IDs of an earlier backend of the same index do not concern the new one."""
    stage.show(WRONG)
    stage.names, stage.revision = ("c", "b", "plain"), 2
    stage.targets["c"] = dataclasses.replace(stage.targets["a"], name="c")
    stage.backends[0] = Backend("c", Endpoint("192.0.2.1", 443), {1: (IDS["a"],)})
    stage.note()
    assert (stage.shown.finding("a"), stage.shown.finding("c")) == ("", "")
    assert stage.shown.read(stage.workers, stage.names)["c"] == {"right": 0, "wrong": 0, "unroutable": 0}
    stage.show(WRONG)
    assert stage.shown.finding("c")


@pytest.mark.parametrize(("kind", "index"), [(UNROUTABLE, 0), (RIGHT, 0), (WRONG, 2)])
def test_what_is_never_a_finding(stage: Stage, kind: int, index: int, caplog: pytest.LogCaptureFixture) -> None:
    """IDs that are unroutable on purpose, right IDs, and all IDs of a backend without server IDs are no finding."""
    for _ in range(200):
        stage.show(kind, 5, index)
        stage.send(5, 2)
    names = stage.names
    assert [(stage.shown.finding(name), stage.shown.has_unknown(name)) for name in names] == [("", False)] * 3
    assert lines(caplog) == []


def test_the_counts_of_the_status(stage: Stage) -> None:
    """The status has the counts of each backend that has server IDs."""
    stage.show(RIGHT, 3)
    stage.show(UNROUTABLE, 2)
    stage.show(WRONG, 1, 1)
    assert stage.shown.read(stage.workers, stage.names) == {
        "a": {"right": 3, "wrong": 0, "unroutable": 2},
        "b": {"right": 0, "wrong": 1, "unroutable": 0},
    }


def test_known_clients_with_unknown_ids(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """A few packets of known clients within seconds are a fault. It ends after a quiet minute."""
    stage.send(KNOWN_PACKETS - 1)
    assert not stage.shown.has_unknown("a")
    stage.send(1)
    assert (stage.shown.has_unknown("a"), stage.shown.has_unknown("b")) == (True, False)
    stage.send(50)
    for _ in range(round(QUIET_S) - 1):
        stage.note()
    assert stage.shown.has_unknown("a")
    stage.note()
    assert not stage.shown.has_unknown("a")
    assert lines(caplog) == [UNKNOWN_LINE]


def test_single_packets_of_known_clients(stage: Stage) -> None:
    """One such packet each second is no fault."""
    for _ in range(300):
        stage.send(1)
    assert not stage.shown.has_unknown("a")


@pytest.mark.parametrize(
    ("packets", "received"),
    [(1, 1), (9, 9), (50, 10_000)],
    ids=["a stranger", "strangers", "less than 1 % of all packets"],
)
def test_strangers_at_a_low_rate(stage: Stage, packets: int, received: int, caplog: pytest.LogCaptureFixture) -> None:
    """Packets of unknown clients at a low rate, or few of very many, are only counted."""
    stage.backends[2] = None
    for _ in range(300):
        stage.send(packets, None, received)
    assert not stage.shown.is_sustained(1)
    (found,) = unknown_ids(stage.shown, stage.workers, stage.now_s)
    assert (found.config_id, found.packets, found.last_seen_s, found.sustained) == (1, 300 * packets, 1.0, False)
    assert lines(caplog) == []


def test_a_burst_of_garbage(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """A burst of garbage is only counted, also long after it."""
    stage.backends[2] = None
    for _ in range(30):
        stage.note()
    stage.send(10_000, None)
    for _ in range(200):
        stage.note()
        assert not stage.shown.is_sustained(1)
    assert lines(caplog) == []


def test_unknown_ids_in_bulk(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """Ten packets a second for a minute are a fault, if they are not too few of all. It ends by itself."""
    rate = round(BULK_PACKETS / BULK_S)
    stage.backends[2] = None
    for _ in range(round(BULK_S) + 2):
        stage.send(rate, None)
    assert stage.shown.is_sustained(1)
    assert lines(caplog) == [BULK_LINE]
    for _ in range(round(BULK_S)):
        stage.note()
    assert not stage.shown.is_sustained(1)


def test_a_pool_with_a_plain_server(stage: Stage) -> None:
    """If a backend has no server IDs, its clients' IDs look like any octets, so their number proves nothing."""
    for _ in range(120):
        stage.send(100, None)
    assert not stage.shown.is_sustained(1)


def test_a_backend_that_has_left(stage: Stage) -> None:
    """A backend that has left has no faults."""
    stage.show(WRONG)
    stage.send(100)
    stage.backends[0], stage.revision = None, 2
    del stage.targets["a"]
    stage.note()
    assert (stage.shown.finding("a"), stage.shown.has_unknown("a")) == ("", False)
