"""Handshake through anycast, then unicast: servers offer the address of their site, and clients may move there.

Two daemons with the same configuration represent the anycast address and the site's own address.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from lab import ngtcp2
from lab.browser import browser, trusting
from lab.clients import in_progress
from lab.daemon import Daemon, configuration, running
from lab.nat import Address
from lab.ports import free_port
from lab.quic_servers import QuicServerBehind, quic_servers
from lab.stage import LIMIT_S, NAMES, PARAMS
from lab.stories import Gates, read_story
from qlb.adapters.aioquic import PreferredAddress
from qlb.demo.http3 import Certificate, make_certificate

pytestmark = pytest.mark.e2e

CONNECTIONS: Final = 10
GATE: Final = "gate"


@dataclass
class Scene:
    """The parts of the scene. address: the anycast address, which clients know."""

    address: Address
    anycast: Daemon
    site: Daemon
    servers: list[QuicServerBehind]
    gates: Gates
    certificate: Certificate

    async def until_all_have_moved(self, connections: int) -> None:
        """Wait until the site has a session for each of this number of clients."""
        await self.site.until(lambda found: found.total("qlb_sessions") >= connections)


@asynccontextmanager
async def site_behind_anycast(folder: Path, host: str, site_host: str) -> AsyncIterator[Scene]:
    """Set up the scene."""
    gates, certificate = Gates(), make_certificate()
    address, unicast = (host, free_port(host)), (site_host, free_port(site_host))
    preferred = PreferredAddress(ipv6=unicast) if ":" in site_host else PreferredAddress(ipv4=unicast)
    async with (
        asyncio.timeout(LIMIT_S),
        quic_servers(NAMES, PARAMS, gates, host=host, preferred_address=preferred, certificate=certificate) as servers,
        running(folder / "anycast", configuration([address], [PARAMS], servers)) as anycast,
        running(folder / "site", configuration([unicast], [PARAMS], servers)) as site,
    ):
        yield Scene(address, anycast, site, servers, gates, certificate)


@pytest.mark.parametrize(("host", "site_host"), [("127.0.0.1", "127.0.0.2"), ("::1", "::1")])
async def test_calls_go_on_at_the_site(host: str, site_host: str, tmp_path: Path) -> None:
    """Clients of aioquic move to the site. Then the anycast node is killed, and no call is lost."""
    async with (
        site_behind_anycast(tmp_path, host, site_host) as scene,
        in_progress([scene.address] * CONNECTIONS) as calls,
    ):
        await scene.until_all_have_moved(CONNECTIONS)
        await calls.until_more()
        await scene.anycast.kill()
        await calls.until_more()
        assert calls.lost == []
        found = await scene.site.metrics()
        assert found.by("qlb_packets_forwarded_total", "route").keys() == {"cid"}, "a connection began at the site"
        await scene.anycast.start()


@ngtcp2.needed
async def test_transfers_go_on_at_the_site(tmp_path: Path) -> None:
    """ngtcp2 clients move to the site during a transfer."""
    async with site_behind_anycast(tmp_path, "127.0.0.1", "127.0.0.2") as scene, asyncio.TaskGroup() as transfers:
        downloads = [
            transfers.create_task(ngtcp2.download(scene.address, f"/story/{GATE}", tmp_path / str(number)))
            for number in range(CONNECTIONS)
        ]
        await scene.until_all_have_moved(CONNECTIONS)
        await scene.anycast.kill()
        scene.gates.open(GATE)
        ended = [await download for download in downloads]
        assert [end.output for end in ended if end.exit_code] == []
        assert {read_story(end.body or b"") for end in ended} <= set(NAMES)
        found = await scene.site.settled()
        assert found.by("qlb_packets_forwarded_total", "route").keys() == {"cid"}
        await scene.anycast.start()


@ngtcp2.needed
async def test_a_client_that_stays(tmp_path: Path) -> None:
    """A client does not have to move: then the whole transfer goes through the anycast node."""
    async with site_behind_anycast(tmp_path, "127.0.0.1", "127.0.0.2") as scene:
        scene.gates.open(GATE)
        end = await ngtcp2.download(scene.address, f"/story/{GATE}", tmp_path / "stay", to_preferred_address=False)
        assert (end.exit_code, read_story(end.body or b"") in NAMES) == (0, True), end.output
        assert (await scene.site.settled()).received == 0
        assert (await scene.anycast.settled()).total("qlb_sessions") == 1


async def test_a_browser_follows(tmp_path: Path) -> None:
    """Chromium, whose own IDs are empty, moves to the site. Its connection survives the end of the anycast node."""
    async with site_behind_anycast(tmp_path, "127.0.0.1", "127.0.0.2") as scene:
        scene.gates.open(GATE)
        async with browser(tmp_path / "profile", *trusting(scene.certificate, scene.address)) as window:
            for anycast_lives in (True, False, False):
                await window.open("https://{}:{}/story/{}".format(*scene.address, GATE))
                assert read_story((await window.text("body")).strip().encode() + b"\n") in NAMES
                assert await window.evaluate("performance.getEntriesByType('navigation')[0].nextHopProtocol") == "h3"
                await scene.until_all_have_moved(1)
                if anycast_lives:
                    await scene.anycast.kill()
            await scene.anycast.start()
        assert sum(server.accepted for server in scene.servers) == 1, "the browser has connected more than once"
