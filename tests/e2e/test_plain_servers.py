"""Servers without QUIC-LB work behind the daemon until an address changes, and the counters show why."""

import socket
from pathlib import Path
from typing import Final

import pytest

from lab.clients import in_progress
from lab.daemon import Yaml, backend_config
from lab.server import Server
from lab.stage import stage

pytestmark = pytest.mark.e2e

CALLS: Final = 24
GIVEN_UP_AFTER_S: Final = 3.0


async def test_plain_servers_work_until_an_address_changes(tmp_path: Path) -> None:
    """Calls continue by flow table and fallback. After a rebinding, the fallback sends most to other servers."""
    async with stage(tmp_path, quic_lb=False) as scene:
        async with in_progress(scene.addresses(CALLS), timeout_s=GIVEN_UP_AFTER_S) as calls:
            await calls.until_more(5)
            assert calls.lost == []
            before = await scene.daemon.metrics()
            scene.nat.rebind_all()
            await calls.until_more(5)
        assert len(calls.lost) > 0, "no call was lost without QUIC-LB"
        assert {name for name in calls.backends if "+" in name} == set(), "a call was served by two backends"

        after = await scene.daemon.settled()
        routes = before.by("qlb_packets_forwarded_total", "route")
        assert routes["fallback"] == CALLS, "not exactly the first packets used the fallback"
        assert routes["flow"] > CALLS
        decided_again = after.by("qlb_packets_forwarded_total", "route")["fallback"] - routes["fallback"]
        assert decided_again == CALLS, "not exactly the first packets from new addresses used the fallback"
        assert after.by("qlb_unroutable_packets_total", "reason").keys() >= {"no_config"}


@pytest.mark.parametrize("table_size", [1024, 0], ids=["flow-table", "stateless"])
async def test_a_new_backend(tmp_path: Path, table_size: int) -> None:
    """A new backend changes nothing for flows in the flow table. A stateless fallback moves the new backend's share."""
    sections: Yaml = {"fallback": {"flow_table_size": str(table_size)}, "health": {"probe": "none"}}
    async with stage(tmp_path, quic_lb=False, **sections) as scene:
        with socket.socket(type=socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 0))
            config = scene.config(**sections)
            config["backends"].append(backend_config(Server("agent-z", None, silent.getsockname()), [], weight="3"))
            addresses = scene.addresses(CALLS)
            async with in_progress(addresses, timeout_s=GIVEN_UP_AFTER_S) as calls:
                scene.daemon.write(config)
                assert (await scene.daemon.command("reload"))[0] == 0
                await calls.until_more(5)
        assert (len(calls.lost) == 0) == (table_size > 0)
        found = await scene.daemon.settled()
        assert ("agent-z" in found.by("qlb_packets_forwarded_total", "backend")) == (table_size == 0)
