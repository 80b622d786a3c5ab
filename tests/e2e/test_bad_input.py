"""Floods of garbage: the daemon does not crash, does not log, and accounts for every datagram."""

import asyncio
import random
import socket
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Final

import pytest

from lab.clients import in_progress
from lab.daemon import Daemon, configuration, running
from lab.garbage import (
    every_config,
    every_first_octet,
    every_id_length,
    every_size,
    every_truncation,
)
from lab.nat import Address
from lab.ports import free_port
from lab.quic_servers import quic_servers
from lab.scrape import Metrics
from lab.stage import LIMIT_S, PARAMS
from lab.stories import Gates
from lab.udp_servers import open_socket, udp_servers

pytestmark = pytest.mark.e2e

SEED: Final = 2026
CLIENTS: Final = 8
WINDOW_DATAGRAMS: Final = 256
WINDOW_BYTES: Final = 512 << 10
"""The most data in transit. It fits into the sockets' buffers, so that the kernel drops nothing."""


FLOODS: Final = (every_size, every_first_octet, every_id_length, every_truncation, every_config)


async def test_garbage_is_only_counted(tmp_path: Path) -> None:
    """Garbage from several clients to two workers causes no crash and no log line. Sums agree, and calls still work."""
    chance, gates, service = random.Random(SEED), Gates(), ("127.0.0.1", free_port())
    async with (
        asyncio.timeout(LIMIT_S),
        udp_servers(["sink-a", "sink-b"], PARAMS, silent=True) as sinks,
        quic_servers(["agent-a"], PARAMS, gates) as (agent,),
    ):
        sections = {"health": {"probe": "none"}, "forwarding": {"workers": "2"}}
        config = configuration([service], [PARAMS], [*sinks, agent], **sections)
        config["backends"][-1]["weight"] = "0"  # the garbage goes to the sinks
        async with running(tmp_path / "daemon", config) as daemon:
            before = await daemon.status()
            lines = count_lines(daemon)
            garbage = list(chain.from_iterable(kind(chance) for kind in FLOODS))
            with ExitStack() as stack:
                clients = [stack.enter_context(open_socket(("127.0.0.1", 0))) for _ in range(CLIENTS)]
                await flood(garbage, clients, service, daemon)

            found = await daemon.settled()
            assert found.received == len(garbage)
            assert found.total("qlb_bytes_received_total") == sum(map(len, garbage))
            assert found.forwarded == sum(sink.packets for sink in sinks)
            dropped = found.by("qlb_packets_dropped_total", "reason")
            assert dropped.keys() == {"empty", "truncated", "version_negotiation"}
            reasons = found.by("qlb_unroutable_packets_total", "reason")
            assert reasons.keys() == {"no_config", "reserved_config", "too_short", "unknown_server_id"}
            after = await daemon.status()
            pids = [[worker["pid"] for worker in status["workers"]] for status in (before, after)]
            assert pids[0] == pids[1], "a worker has died"
            assert count_lines(daemon) == lines, "the garbage was logged"

            for backend in config["backends"]:
                backend["weight"] = "1" if backend is config["backends"][-1] else "0"
            daemon.write(config)
            assert (await daemon.command("reload"))[0] == 0
            async with in_progress([service] * 3) as calls:
                await calls.until_more()
            assert (calls.lost, set(calls.backends)) == ([], {"agent-a"})


async def flood(garbage: Iterable[bytes], clients: Sequence[socket.socket], service: Address, daemon: Daemon) -> None:
    """Send the garbage in windows. The next window follows when the daemon has counted the one before."""
    sent = in_transit = size_bytes = 0
    for datagram in garbage:
        clients[sent % len(clients)].sendto(datagram, service)
        sent, in_transit, size_bytes = sent + 1, in_transit + 1, size_bytes + len(datagram)
        if in_transit >= WINDOW_DATAGRAMS or size_bytes >= WINDOW_BYTES:
            await daemon.until(partial(has_received, sent))
            in_transit = size_bytes = 0
    await daemon.until(partial(has_received, sent))


def count_lines(daemon: Daemon) -> int:
    """Return the number of log lines, without those about workers that wait for a processor on a busy machine."""
    return sum("worker is late" not in line for line in daemon.log.splitlines())


def has_received(packets: int, found: Metrics) -> bool:
    """Return whether the daemon has counted this number of packets."""
    return found.received >= packets
