"""Workers that are pinned to cores: which core each one gets, and what happens if pinning is impossible."""

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
from qlb.workers.cores import usable_cores
from qlb.workers.pool import Workers
from qlb.workers.slots import Slot, open_slots
from tests.workers.test_workers import TO_B0, Desk, _until

TEXT = """
listen: ["127.0.0.1:0"]
backends: [{name: a, address: "127.0.0.1:9"}]
forwarding: {workers: 3, pin_workers: %s}
"""

needs_pinning = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system cannot pin a process to a core"
)


def _cores_of(slot: Slot) -> set[int]:
    assert slot.process is not None
    return set(os.sched_getaffinity(slot.process.pid))


@pytest.mark.parametrize(("pinned", "cpus"), [("true", [4, 6, 4]), ("false", [None, None, None])])
def test_slots_go_round_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pinned: str, cpus: list[int | None]
) -> None:
    """Worker n gets the n-th core that the daemon may use, whatever its number. Unpinned workers get none."""
    path = tmp_path / "qlb.yaml"
    path.write_text(TEXT % pinned)
    monkeypatch.setattr("qlb.workers.slots.usable_cores", lambda: (4, 6))
    slots = open_slots(load(path).config, Inherited())
    assert [slot.cpu for slot in slots] == cpus
    for slot in slots:
        slot.close()


@pytest.mark.slow
@needs_pinning
async def test_a_pinned_worker_and_its_replacement(network: Network) -> None:
    """A pinned worker and its replacement run on their slot's core only. Spares and unpinned workers may use all."""
    _, backends = network.pool()
    allowed = set(usable_cores())
    first = open_listener(Endpoint("127.0.0.1", 0))
    slots = [Slot(0, [first], cpu=max(allowed)), Slot(1, [open_listener(bound_endpoint(first))])]
    workers = Workers(slots, "asyncio", Desk(orders(backends)))
    try:
        await workers.start()
        for restarts in range(2):
            assert [_cores_of(slot) for slot in slots] == [{max(allowed)}, allowed]
            assert set(os.sched_getaffinity(workers.spares[0].pid)) == allowed
            assert slots[0].process is not None
            os.kill(slots[0].process.pid, signal.SIGKILL)
            await _until(lambda n=restarts: slots[0].restarts == n + 1 and slots[0].applied > 0)
            await _until(lambda: len(workers.spares) == 2)
    finally:
        await workers.stop()


@needs_pinning
async def test_a_missing_core_does_not_stop_forwarding(network: Network, caplog: pytest.LogCaptureFixture) -> None:
    """If its core does not exist, a worker forwards without pinning, and the log reports it."""
    sockets, backends = network.pool()
    slot = Slot(0, [open_listener(Endpoint("127.0.0.1", 0))], cpu=1_000_000)
    workers = Workers([slot], "asyncio", Desk(orders(backends)))
    try:
        await workers.start()
        network.socket().sendto(TO_B0, bound_endpoint(slot.listeners[0]))
        assert (await receive(sockets[0]))[0] == TO_B0
    finally:
        await workers.stop()
    (record,) = (one for one in caplog.records if one.msg == "worker deviates from its assignment")
    assert "cannot run on core 1000000 alone" in vars(record)["reason"]


def test_a_system_that_cannot_pin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system cannot pin, preflight() raises an error that names the key, before the first socket is opened."""
    path = tmp_path / "qlb.yaml"
    monkeypatch.setattr(preflight, "_CAN_PIN", False)
    path.write_text(TEXT % "false")
    assert preflight.preflight(load(path))
    path.write_text(TEXT % "true")
    with pytest.raises(ConfigError, match=r"qlb\.yaml:\d+:\d+: forwarding\.pin_workers: this system cannot pin"):
        preflight.preflight(load(path))


def test_cores_without_sched_getaffinity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without sched_getaffinity, the cores are counted from 0. The least is one core."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert usable_cores() == (0, 1, 2)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == (0,)
