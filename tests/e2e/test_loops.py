"""A backend whose address is moved to the balancer's own machine is excluded, so that no packet loops."""

import asyncio
import json
import socket
import subprocess
from pathlib import Path
from typing import Final

import pytest

from lab import datagrams
from lab.daemon import backend_config, configuration, running
from lab.namespace import in_a_network_of_its_own
from lab.scrape import Metrics
from lab.server import Server
from lab.stage import LIMIT_S, PARAMS
from qlb.cid import CidCodec

pytestmark = pytest.mark.e2e

SERVICE: Final = ("0.0.0.0", 4433)
SAFE: Final = Server("safe", b"safe", ("127.0.0.1", 5001))
MOVING: Final = Server("moving", b"move", ("10.0.0.7", 4433))
IN_A_FILE: Final = Server("in-a-file", b"file", ("10.0.0.8", 4433))


def excluded(metrics: Metrics) -> set[str]:
    """Return the backends that are excluded."""
    return {name for name, value in metrics.by("qlb_backend_excluded", "backend").items() if value}


@pytest.mark.parametrize("plane", ["batch", "asyncio"])
def test_an_address_that_comes_and_goes(tmp_path: Path, plane: str) -> None:
    """While a backend's address is local, it gets no packets, not even by ID. Later it is included again."""
    codec = CidCodec(PARAMS)
    pool = tmp_path / "pool.json"
    pool.write_text(json.dumps({"backends": [backend_config(IN_A_FILE, [PARAMS])]}))
    config = configuration(
        [SERVICE],
        [PARAMS],
        [SAFE, MOVING],
        health={"probe": "none"},
        forwarding={"plane": plane},
        discovery=[{"name": "pool", "file": str(pool)}],
    )

    async def work() -> None:
        subprocess.run(["ip", "addr", "add", "10.0.0.8/32", "dev", "lo"], check=True)
        async with asyncio.timeout(LIMIT_S), running(tmp_path / "daemon", config, may_log_errors=True) as daemon:
            await daemon.until(lambda metrics: excluded(metrics) == {"in-a-file"})
            subprocess.run(["ip", "addr", "add", "10.0.0.7/32", "dev", "lo"], check=True)
            await daemon.until(lambda metrics: excluded(metrics) == {"in-a-file", "moving"})
            await daemon.command("undrain", SAFE.name)  # returns when the worker is up to date too
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                for server in (MOVING, IN_A_FILE, SAFE):
                    cid = codec.encode(server.server_id, bytes(PARAMS.nonce_length))
                    client.sendto(datagrams.short(cid), ("10.0.0.7", 4433))
            await daemon.until(lambda metrics: metrics.total("qlb_packets_received_total") >= 3)
            metrics = await daemon.settled()
            assert metrics.total("qlb_packets_received_total") == 3
            assert set(metrics.by("qlb_packets_forwarded_total", "backend")) >= {"safe"}
            rows = {row["name"]: row for row in (await daemon.status())["backends"]}
            assert "10.0.0.7:4433 is an address of this machine" in rows["moving"]["excluded"]
            assert rows["safe"]["excluded"] is None
            code, text = await daemon.command("reload")
            assert (code, "address 10.0.0.7:4433 is the balancer itself (listen 0.0.0.0:4433" in text) == (2, True)
            subprocess.run(["ip", "addr", "del", "10.0.0.7/32", "dev", "lo"], check=True)
            await daemon.until(lambda metrics: excluded(metrics) == {"in-a-file"})
            assert (await daemon.command("reload"))[0] == 0
            assert daemon.logged("backend excluded: it is this balancer") == 2
            assert daemon.logged("backend no longer excluded") == 1
            subprocess.run(["ip", "addr", "add", "10.0.0.7/32", "dev", "lo"], check=True)
            code, text = await daemon.cli("check", str(daemon.path))
            assert (code, "is the balancer itself" in text) == (2, True)
            subprocess.run(["ip", "addr", "del", "10.0.0.7/32", "dev", "lo"], check=True)

    in_a_network_of_its_own(work)
