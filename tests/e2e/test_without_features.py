"""The daemon in a sandbox without any optional feature: it forwards, and reports unknown values as unknown."""

import asyncio
import platform
import sys
from pathlib import Path

import pytest

from lab.daemon import configuration, running
from lab.datagrams import short
from lab.dataplane.running import WORKER_PLANES
from lab.echoes import PARAMS
from lab.ports import free_port
from lab.stage import NAMES
from lab.udp_servers import open_socket, received, udp_servers
from lab.without_features import SYSCALLS

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        sys.platform != "linux" or platform.machine() not in SYSCALLS,
        reason="the filter supports only Linux on x86-64 and ARM64",
    ),
]

LIMIT_S = 360.0


@pytest.mark.parametrize("plane", WORKER_PLANES)
@pytest.mark.parametrize(("listen", "host"), [("0.0.0.0", "127.0.0.1"), ("::1", "::1")])
async def test_it_forwards_without_optional_features(tmp_path: Path, plane: str, listen: str, host: str) -> None:
    """Packets pass in both directions on a wildcard and on a specific address, with two workers."""
    port = free_port(host)
    sections = {"forwarding": {"plane": plane, "workers": "2"}, "health": {"probe": "quic", "interval": "100ms"}}
    prefix = (sys.executable, "-m", "lab.without_features")
    async with asyncio.timeout(LIMIT_S), udp_servers(NAMES, PARAMS, host=host) as servers:
        config = configuration([(listen, port)], [PARAMS], servers, **sections)
        async with running(tmp_path / "daemon", config, prefix=prefix) as daemon:
            (row,) = (await daemon.status())["listeners"]
            assert row["kernel_dropped_packets"] is None, "drops are counted although SO_MEMINFO is refused"
            with open_socket((host, 0)) as client:
                client.sendto(short(b"unknown!"), (host, port))
                answer, _, source = await received(client)
                assert (answer, source) == (short(b"unknown!"), (host, port))
            await daemon.settled()
