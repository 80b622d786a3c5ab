"""Workers on cores of their own: what runs where, and what happens where that cannot be."""

import os
import signal
from pathlib import Path

import pytest

from lab.dataplane.network import Network, orders, receive
from qlb.addresses import Endpoint
from qlb.config.load import load
from qlb.daemon import preflight
from qlb.dataplane.sockets import bound_endpoint, open_listener
from qlb.errors import ConfigError
from qlb.handover.sockets import Inherited
from qlb.workers.pool import Workers
from qlb.workers.slots import Place, open_places, usable_cores
from tests.workers.test_workers import TO_B0, Desk, _until

TEXT = """
listen: ["127.0.0.1:0"]
backends: [{name: a, address: "127.0.0.1:9"}]
forwarding: {workers: 3, pin_workers: %s}
"""

only_where_it_can = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system cannot pin a process to a core"
)


def _cores_of(place: Place) -> set[int]:
    assert place.process is not None
    return set(os.sched_getaffinity(place.process.pid))


@pytest.mark.parametrize(("pinned", "cpus"), [("true", [4, 6, 4]), ("false", [None, None, None])])
def test_places_go_round_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pinned: str, cpus: list[int | None]
) -> None:
    """Worker n on the n-th core that the daemon may use, whatever its number; none where nobody asked."""
    path = tmp_path / "qlb.yaml"
    path.write_text(TEXT % pinned)
    monkeypatch.setattr("qlb.workers.slots.usable_cores", lambda: (4, 6))
    places = open_places(load(path).config, Inherited())
    assert [place.cpu for place in places] == cpus
    for place in places:
        place.close()


@only_where_it_can
async def test_a_pinned_worker_and_its_replacement(network: Network) -> None:
    """Both run on their place's core alone; the spares and an unpinned worker wherever the daemon may."""
    _, backends = network.pool()
    allowed = set(usable_cores())
    first = open_listener(Endpoint("127.0.0.1", 0))
    places = [Place(0, [first], cpu=max(allowed)), Place(1, [open_listener(bound_endpoint(first))])]
    workers = Workers(places, "asyncio", Desk(orders(backends)))
    try:
        await workers.start()
        for restarts in range(2):
            assert [_cores_of(place) for place in places] == [{max(allowed)}, allowed]
            assert set(os.sched_getaffinity(workers.spares[0].pid)) == allowed
            assert places[0].process is not None
            os.kill(places[0].process.pid, signal.SIGKILL)
            await _until(lambda n=restarts: places[0].restarts == n + 1 and places[0].applied > 0)
            await _until(lambda: len(workers.spares) == 2)
    finally:
        await workers.stop()


@only_where_it_can
async def test_a_core_that_is_gone_does_not_stop_forwarding(network: Network, caplog: pytest.LogCaptureFixture) -> None:
    """The worker forwards unpinned, and the log says so."""
    sockets, backends = network.pool()
    place = Place(0, [open_listener(Endpoint("127.0.0.1", 0))], cpu=1_000_000)
    workers = Workers([place], "asyncio", Desk(orders(backends)))
    try:
        await workers.start()
        network.socket().sendto(TO_B0, bound_endpoint(place.listeners[0]))
        assert (await receive(sockets[0]))[0] == TO_B0
    finally:
        await workers.stop()
    assert "could not be pinned to core 1000000" in caplog.text


def test_where_nobody_can_pin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for where the system cannot: an error that names the key, before the first socket."""
    path = tmp_path / "qlb.yaml"
    monkeypatch.setattr(preflight, "_CAN_PIN", False)
    path.write_text(TEXT % "false")
    assert preflight.preflight(load(path).config)
    path.write_text(TEXT % "true")
    with pytest.raises(ConfigError, match=r"^forwarding\.pin_workers: this system cannot pin"):
        preflight.preflight(load(path).config)


def test_cores_where_nobody_tells_which(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their number is all there is to know, and one is the least."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert usable_cores() == (0, 1, 2)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == (0,)
