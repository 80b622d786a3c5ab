"""Worker processes: how they start, receive orders, die and are replaced, and how their counts stay correct."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from lab.dataplane.network import FOUR_PASS, Network, backend, cid_of, orders, receive, short_header
from lab.dataplane.running import WORKER_PLANES
from lab.stopped import standing_still
from qlb.addresses import Endpoint
from qlb.dataplane.base import Orders
from qlb.dataplane.sockets import bound_endpoint, open_listener
from qlb.routing.counters import CPU_NS, OUTCOME, PACKETS_RECEIVED, RESIDENT_BYTES
from qlb.routing.outcomes import DROP_WORKER_DIED, OUTCOMES
from qlb.workers.pool import Workers
from qlb.workers.process import WorkerProcess
from qlb.workers.slots import Slot

TO_B0 = short_header(cid_of(FOUR_PASS, 0))
BATCH = 64
"""The most datagrams that a worker of any plane may have received and not yet sent: one batch."""

every_plane = pytest.mark.parametrize("plane", WORKER_PLANES)


@dataclass
class Desk:
    """The source of the orders that workers request."""

    wanted: Orders

    def __call__(self) -> Orders:
        """Return the current orders."""
        return self.wanted


@asynccontextmanager
async def working(desk: Desk, count: int = 1, plane: str = "asyncio") -> AsyncIterator[tuple[Workers, Endpoint]]:
    """Run workers on one address until the end of the block."""
    first = open_listener(Endpoint("127.0.0.1", 0))
    service = bound_endpoint(first)
    listeners = [first, *(open_listener(service) for _ in range(count - 1))]
    workers = Workers([Slot(n, [sock]) for n, sock in enumerate(listeners)], plane, desk)
    try:
        await workers.start()
        yield workers, service
    finally:
        await workers.stop()


async def _send(client: socket.socket, service: Endpoint) -> None:
    await asyncio.get_running_loop().sock_sendto(client, TO_B0, service)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def test_two_workers_forward(network: Network) -> None:
    """Packets of many clients reach their backend, whichever worker's socket the system selects."""
    sockets, backends = network.pool()
    async with working(Desk(orders(backends)), 2) as (workers, service):
        for _ in range(30):
            await _send(network.socket(), service)
            assert (await receive(sockets[0]))[0] == TO_B0
        await _until(lambda: sum(slot.counters.slots[OUTCOME + 1] for slot in workers.slots) == 30)
        assert all(slot.counters.slots[PACKETS_RECEIVED] for slot in workers.slots)


async def test_new_orders_reach_every_worker(network: Network) -> None:
    """apply() returns when all workers forward by the new snapshot."""
    _, backends = network.pool()
    elsewhere = network.socket()
    desk = Desk(orders(backends))
    async with working(desk, 2) as (workers, service):
        desk.wanted = orders([backend(0, Endpoint(*elsewhere.getsockname())), *backends[1:]], generation=2)
        await workers.apply(desk.wanted)
        for _ in range(10):
            await _send(network.socket(), service)
            assert (await receive(elsewhere))[0] == TO_B0


async def test_killed_worker_is_replaced_on_its_socket(network: Network) -> None:
    """Packets that arrive while a killed worker is replaced are forwarded, and its counters continue."""
    sockets, backends = network.pool()
    client = network.socket()
    async with working(Desk(orders(backends))) as (workers, service):
        (slot,) = workers.slots
        for round_number in range(1, 4):
            assert slot.process is not None
            pid = slot.process.pid
            os.kill(pid, signal.SIGKILL)
            await _send(client, service)
            assert (await receive(sockets[0]))[0] == TO_B0
            await _until(lambda n=round_number: slot.restarts == n)
            assert slot.process.pid != pid
        counts = slot.counters.slots
        await _until(lambda: counts[PACKETS_RECEIVED] == 3)
        await _until(lambda: sum(counts[OUTCOME : OUTCOME + len(OUTCOMES)]) == 3)


@pytest.mark.slow
@every_plane
async def test_the_usage_of_a_slot(network: Network, plane: str) -> None:
    """The processor time of a slot continues when its worker is replaced. The memory is that of the present worker."""
    _, backends = network.pool()
    async with working(Desk(orders(backends)), plane=plane) as (workers, _):
        (slot,) = workers.slots
        counts = slot.counters.slots
        await _until(lambda: counts[CPU_NS] > 0 < counts[RESIDENT_BYTES])
        before_ns = counts[CPU_NS]
        assert slot.process is not None
        os.kill(slot.process.pid, signal.SIGKILL)
        await _until(lambda: slot.restarts == 1)
        await _until(lambda: counts[CPU_NS] > before_ns and counts[RESIDENT_BYTES] > 0)


@every_plane
async def test_packets_in_the_socket_outlive_its_worker(network: Network, plane: str) -> None:
    """All datagrams that arrive while no worker reads the socket are forwarded in order by the replacement."""
    sockets, backends = network.pool()
    client = network.socket()
    stream = [short_header(cid_of(FOUR_PASS, 0), number.to_bytes(4, "big")) for number in range(200)]
    async with working(Desk(orders(backends)), plane=plane) as (workers, service):
        (slot,) = workers.slots
        assert slot.process is not None
        with standing_still(slot.process.pid):
            for datagram in stream:
                client.sendto(datagram, service)
            os.kill(slot.process.pid, signal.SIGKILL)
        assert [(await receive(sockets[0]))[0] for _ in stream] == stream
        counts = slot.counters.slots
        await _until(lambda: counts[OUTCOME + FOUR_PASS.config_id] == len(stream))
        assert counts[PACKETS_RECEIVED] == len(stream)
        assert slot.drops[0].read() in (0, None)


@pytest.mark.slow
@every_plane
async def test_a_stream_outlives_its_workers(network: Network, plane: str) -> None:
    """Each of three kills during a stream loses at most the worker's current batch. No packet arrives twice."""
    sockets, backends = network.pool()
    client = network.socket()
    stream = [short_header(cid_of(FOUR_PASS, 0), number.to_bytes(4, "big")) for number in range(1000)]
    arrived: list[bytes] = []
    asyncio.get_running_loop().add_reader(sockets[0], lambda: arrived.append(sockets[0].recv(65535)))
    async with working(Desk(orders(backends)), plane=plane) as (workers, service), asyncio.timeout(60):
        (slot,) = workers.slots
        counts = slot.counters.slots
        for kill in range(1, 4):
            before = len(arrived)
            for number, datagram in enumerate(stream):
                while number - (len(arrived) - before) > 2 * BATCH:  # so that the backend's queue is never full
                    await asyncio.sleep(0)
                client.sendto(datagram, service)
                if number == len(stream) // 2:
                    assert slot.process is not None
                    os.kill(slot.process.pid, signal.SIGKILL)
            await _until(lambda: arrived[-1] == stream[-1])  # queues preserve the order: all others came or are lost
            await _until(lambda kill=kill: slot.restarts == kill)
            came = len(arrived) - before
            assert len(set(arrived[before:])) == came
            assert len(stream) - BATCH <= came
        await _until(lambda: sum(counts[OUTCOME : OUTCOME + len(OUTCOMES)]) == counts[PACKETS_RECEIVED])
        # A killed worker may have sent packets that it had not counted as sent, or received packets that it had not
        # counted.
        assert counts[PACKETS_RECEIVED] - counts[OUTCOME + DROP_WORKER_DIED] <= len(arrived)
        assert 3 * (len(stream) - BATCH) <= counts[PACKETS_RECEIVED] <= 3 * len(stream)
        asyncio.get_running_loop().remove_reader(sockets[0])


async def test_killed_spare_is_no_obstacle(network: Network) -> None:
    """A worker is replaced even if its spare was killed before."""
    sockets, backends = network.pool()
    async with working(Desk(orders(backends))) as (workers, service):
        (slot,) = workers.slots
        (spare,) = workers.spares
        assert slot.process is not None
        os.kill(spare.pid, signal.SIGKILL)
        await spare.wait()
        os.kill(slot.process.pid, signal.SIGKILL)
        await _send(network.socket(), service)
        assert (await receive(sockets[0]))[0] == TO_B0


@pytest.mark.slow
async def test_workers_that_die_together_all_find_a_spare(network: Network) -> None:
    """Two workers that die together are replaced by the two spares, and two new spares are started."""
    _, backends = network.pool()
    async with working(Desk(orders(backends)), 2) as (workers, _):
        waiting = {spare.pid for spare in workers.spares}
        assert len(waiting) == 2
        for slot in workers.slots:
            assert slot.process is not None
            os.kill(slot.process.pid, signal.SIGKILL)
        await _until(lambda: all(slot.restarts == 1 and slot.forwards for slot in workers.slots))
        assert {slot.process.pid for slot in workers.slots if slot.process} == waiting
        await _until(lambda: len(workers.spares) == 2)
        assert waiting.isdisjoint(spare.pid for spare in workers.spares)


async def test_spares_are_bounded(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of spares is limited, so that many workers do not double the number of processes."""
    _, backends = network.pool()
    monkeypatch.setattr("qlb.workers.pool._MAX_SPARES", 1)
    async with working(Desk(orders(backends)), 2) as (workers, _):
        assert len(workers.spares) == 1


@pytest.mark.slow
async def test_orders_that_come_during_a_replacement_are_not_lost(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Orders that are applied between a worker's death and its replacement's first orders reach the replacement."""
    sockets, backends = network.pool()
    desk = Desk(orders(backends))
    async with working(desk) as (workers, service):
        (slot,) = workers.slots
        assert slot.process is not None
        assign = WorkerProcess.assign
        reloads: list[asyncio.Task[None]] = []

        async def interrupted(*arguments: object) -> None:
            desk.wanted = orders(backends, generation=2)
            reloads.append(asyncio.create_task(workers.apply(desk.wanted)))
            await asyncio.sleep(0)
            await assign(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(WorkerProcess, "assign", interrupted)
        os.kill(slot.process.pid, signal.SIGKILL)
        await _until(lambda: slot.applied == 2)
        await asyncio.gather(*reloads)
        await _send(network.socket(), service)
        assert (await receive(sockets[0]))[0] == TO_B0


@pytest.mark.slow
async def test_orders_to_the_dead_are_no_error(network: Network) -> None:
    """Orders to a worker that has just been killed raise no error and do not delay the other workers."""
    _, backends = network.pool()
    desk = Desk(orders(backends))
    async with working(desk, 2) as (workers, _):
        victim = workers.slots[0].process
        assert victim is not None
        os.kill(victim.pid, signal.SIGKILL)
        await victim.wait()
        desk.wanted = orders(backends, generation=2)
        await workers.apply(desk.wanted)
        assert [slot.applied for slot in workers.slots] == [2, 2]
        assert workers.applied == 2
        workers.slots[1].applied = 1
        assert workers.applied == 1, "the slowest worker does not decide"


async def test_workers_end_with_their_supervisor(network: Network) -> None:
    """A worker whose channel closes ends by itself with code 0, so no orphan blocks the port."""
    _, backends = network.pool()
    async with working(Desk(orders(backends))) as (workers, _):
        process = workers.slots[0].process
        assert process is not None
    assert await process.wait() == 0


@pytest.mark.slow
async def test_unknown_plane_fails_cleanly(network: Network, caplog: pytest.LogCaptureFixture) -> None:
    """A worker that cannot start logs the reason, and stop() still ends everything."""
    _, backends = network.pool()
    slot = Slot(0, [open_listener(Endpoint("127.0.0.1", 0))])
    workers = Workers([slot], "no-such-plane", Desk(orders(backends)))
    starting = asyncio.create_task(workers.start())
    await _until(lambda: slot.restarts > 0)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await workers.stop()
    assert "worker" in caplog.text


@pytest.mark.slow
@every_plane
async def test_paused_workers_do_not_read(network: Network, plane: str) -> None:
    """Of two sets of workers on shared sockets, only the one that is not paused reads. A change loses no packet."""
    sockets, backends = network.pool()
    desk = Desk(orders(backends))
    async with working(desk, 2, plane) as (first, service):
        slots = [Slot(slot.number, [slot.listeners[0].dup()]) for slot in first.slots]
        second = Workers(slots, plane, desk)
        try:
            await second.start(paused=True)

            async def received() -> list[int]:
                for _ in range(8):
                    await _send(network.socket(), service)
                    await receive(sockets[0])
                return [sum(one.slots[PACKETS_RECEIVED] for one in each.counters) for each in (first, second)]

            assert await received() == [8, 0]
            await first.pause()
            waiting = network.socket()
            await _send(waiting, service)
            await second.resume()
            await receive(sockets[0])
            assert await received() == [8, 9]
            await second.pause()
            await first.resume()
            assert await received() == [16, 9]
        finally:
            await second.stop()


@pytest.mark.slow
async def test_the_replacement_of_a_paused_worker_is_paused(network: Network) -> None:
    """The replacement of a paused worker is paused too, until all workers resume."""
    sockets, backends = network.pool()
    async with working(Desk(orders(backends))) as (workers, service):
        await workers.pause()
        (slot,) = workers.slots
        assert slot.process is not None
        killed = slot.process.pid
        os.kill(killed, signal.SIGKILL)
        await _until(lambda: slot.process is not None and slot.process.pid != killed and slot.forwards)
        await _send(network.socket(), service)
        assert slot.counters.slots[PACKETS_RECEIVED] == 0
        await workers.resume()
        await receive(sockets[0])


@pytest.mark.slow
@every_plane
async def test_a_worker_that_hangs_is_replaced(network: Network, plane: str, caplog: pytest.LogCaptureFixture) -> None:
    """A stopped worker is killed, and its replacement forwards the packets that waited in the socket."""
    sockets, backends = network.pool()
    async with working(Desk(orders(backends)), plane=plane) as (workers, service), asyncio.timeout(60):
        (slot,) = workers.slots
        assert slot.process is not None
        with standing_still(slot.process.pid):  # after every thread has stopped, so that none receives the packet
            await _send(network.socket(), service)
            assert (await asyncio.get_running_loop().sock_recv(sockets[0], 2000)) == TO_B0
        await _until(lambda: slot.restarts == 1 and slot.is_fresh)
        assert (slot.hangs, workers.is_fresh) == (1, True)
        await _until(lambda: len(workers.spares) == 1)
    (killed,) = [record for record in caplog.records if record.getMessage() == "worker hangs and is killed"]
    assert killed.__dict__["reason"].startswith("none of its threads can run (state T)")


@pytest.mark.slow
async def test_a_stopped_spare_is_not_used(network: Network) -> None:
    """A stopped spare is killed, and another process gets the slot."""
    _, backends = network.pool()
    async with working(Desk(orders(backends))) as (workers, _):
        (slot,) = workers.slots
        (spare,) = workers.spares
        assert slot.process is not None
        with standing_still(spare.pid):
            os.kill(slot.process.pid, signal.SIGKILL)
            await _until(lambda: slot.restarts == 1 and slot.applied > 0)
            assert slot.process.pid != spare.pid
            assert not spare.alive
        await _until(lambda: len(workers.spares) == 1)


@pytest.mark.slow
async def test_a_spare_that_hangs_when_it_is_used_is_replaced(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A spare that hangs only after it got the slot is found and replaced like any worker."""
    _, backends = network.pool()
    monkeypatch.setattr(WorkerProcess, "is_stopped", False)
    async with working(Desk(orders(backends))) as (workers, _):
        (slot,) = workers.slots
        (spare,) = workers.spares
        await _until(lambda: spare.waits)
        assert slot.process is not None
        with standing_still(spare.pid):
            os.kill(slot.process.pid, signal.SIGKILL)
            async with asyncio.timeout(60):
                while slot.restarts < 2 or not slot.applied:
                    await asyncio.sleep(0.01)
        assert slot.hangs == 1
        await _until(lambda: len(workers.spares) == 1)


@pytest.mark.slow
async def test_a_worker_that_is_behind_is_named(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """apply() stops waiting after a time limit and names the worker that is behind, until it has applied the orders."""
    _, backends = network.pool()
    monkeypatch.setattr("qlb.workers.heartbeat.INTERVAL_S", 3600)
    monkeypatch.setattr("qlb.workers.pool._APPLY_TIMEOUT_S", 0.1)
    desk = Desk(orders(backends))
    async with working(desk, 2) as (workers, _):
        await _until(lambda: not workers.behind)
        slow = workers.slots[1].process
        assert slow is not None
        with standing_still(slow.pid):
            desk.wanted = orders(backends, generation=2)
            (behind,) = await workers.apply(desk.wanted)
            assert behind.startswith(f"worker 1 (process {slow.pid}) has not applied the configuration yet")
            assert [slot.is_behind for slot in workers.slots] == [False, True]
        await _until(lambda: workers.behind == ())


async def test_a_worker_without_a_stamp_is_not_fresh(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that has applied its orders but has not stamped for a while forwards, but is not fresh."""
    _, backends = network.pool()
    async with working(Desk(orders(backends))) as (workers, _):
        assert workers.is_fresh
        monkeypatch.setattr("qlb.workers.slots._FRESH_MS", 0)
        assert not workers.is_fresh
        assert workers.forwards
