"""The status page of a real daemon in a real browser."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from lab import datagrams
from lab.browser import DESKTOP, PHONE, Browser, browser
from lab.daemon import Daemon, configuration, running
from lab.echoes import Echoes, echoes
from lab.ports import free_port
from lab.server import Server
from lab.stage import LIMIT_S, PARAMS
from lab.udp_servers import UdpServer

pytestmark = pytest.mark.e2e

FIRST_ROW: Final = "#backends tbody tr:first-child"
MANY: Final = 2000
WIDTHS: Final = "[document.documentElement.scrollWidth, innerWidth]"
LOADED: Final = "performance.getEntriesByType('resource').map(entry => new URL(entry.name).pathname)"


@asynccontextmanager
async def page_of(daemon: Daemon, folder: Path) -> AsyncIterator[Browser]:
    """Open a daemon's page. At the end of the block the console must be empty, and only /status loaded."""
    host, port = daemon.admin
    async with asyncio.timeout(LIMIT_S), browser(folder / "profile") as window:
        await window.emulate(DESKTOP)
        await window.open(f"http://{host}:{port}/")
        await window.until_shown("#state", lambda shown: shown == "ready")
        yield window
        assert await window.console() == []
        assert set(await window.evaluate(LOADED)) == {"/status"}


async def ask(on: Echoes, server: UdpServer, times: int = 1) -> None:
    """Send packets with a server's ID to the server, and wait for each answer."""
    for _ in range(times):
        await on.ask(datagrams.short(on.id_of(server), b"?"))


async def test_the_page_follows_the_daemon(tmp_path: Path) -> None:
    """The page shows backends, packets, outcomes, configs and workers, and follows a drain without being reloaded."""
    async with echoes(tmp_path, "127.0.0.1", drain={"quiet_period": "1s"}) as on, page_of(on.daemon, tmp_path) as page:
        names = "[...document.querySelectorAll('#backends td:first-child > span')].map(node => node.firstChild.data)"
        assert await page.evaluate(names) == [server.name for server in on.servers]
        await ask(on, on.servers[0], 7)
        await page.until_shown(FIRST_ROW, lambda shown: "7 by ID" in shown)
        split = "document.querySelector('#backends td.packets').title"
        assert await page.evaluate(split) == "7 by ID, 0 by flow, 0 by fallback"
        await page.until_shown("#outcomes", lambda shown: "cid_config_1 7" in " ".join(shown.split()))
        assert "33 % wanted" in await page.text(FIRST_ROW)
        assert "active" in await page.text("#configs")
        assert "alive" in await page.text("#workers")
        assert f"127.0.0.1:{on.service[1]}" in await page.text("#listeners")

        assert (await on.daemon.command("drain", on.servers[0].name))[0] == 0
        shown = await page.until_shown(FIRST_ROW, lambda shown: "drained" in shown)
        assert "0 % wanted" in shown
        assert (await on.daemon.command("undrain", on.servers[0].name))[0] == 0
        await page.until_shown(FIRST_ROW, lambda shown: "active" in shown)


async def test_the_page_waits_for_a_daemon_that_is_gone(tmp_path: Path) -> None:
    """Without a daemon, the page retains its data and reports missing answers. It continues with the next daemon."""
    async with echoes(tmp_path, "127.0.0.1") as on, page_of(on.daemon, tmp_path) as page:
        await ask(on, on.servers[1], 3)
        await page.until_shown("#outcomes", lambda shown: "cid_config_1 3" in " ".join(shown.split()))
        await on.daemon.stop()
        await page.until_shown("#state", lambda shown: shown.startswith("no answer since "))
        assert "cid_config_1 3" in " ".join((await page.text("#outcomes")).split())
        refused = await page.console()
        assert refused
        assert all("ERR_CONNECTION_REFUSED" in line["message"] for line in refused)
        await on.daemon.start()
        await page.until_shown("#state", lambda shown: shown == "ready")
        await page.until_shown("#outcomes tbody", lambda shown: not shown.strip())
        await page.console()


async def test_the_page_fits_a_phone_in_the_dark(tmp_path: Path) -> None:
    """The page is never wider than the window, and it is dark if the reader prefers that."""
    async with echoes(tmp_path, "127.0.0.1") as on, page_of(on.daemon, tmp_path) as page:
        await ask(on, on.servers[2])
        for size in (PHONE, DESKTOP):
            for dark in (True, False):
                await page.emulate(size, dark=dark)
                wide, window = await page.evaluate(WIDTHS)
                assert wide <= window == size[0]
                background = await page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
                assert background == ("rgb(20, 22, 26)" if dark else "rgb(255, 255, 255)")


async def test_the_page_shows_text_as_text(tmp_path: Path) -> None:
    """Text that a server sends appears on the page as text, not as markup, in notices too."""
    markup = "<img src=x onerror=document.title='gone'>"
    async with echoes(tmp_path, "127.0.0.1") as on, page_of(on.daemon, tmp_path) as page:
        hostile: dict[str, Any] = {
            "name": markup,
            "finding": markup,
            "detail": markup,
            "state": markup,
            "healthy": False,
        }
        await page.evaluate(
            "show({...before, balancers: [arguments[0].name],"
            " notices: [{severity: arguments[0].name, text: arguments[0].name, see: arguments[0].name}],"
            " outcome_groups: [{name: arguments[0].name, text: arguments[0].name, packets: 1, outcomes:"
            " [{name: arguments[0].name, text: arguments[0].name, packets: 1}]}],"
            " backends: before.backends.map(row => ({...row, ...arguments[0]}))})",
            hostile,
        )
        assert markup in await page.text("#notices")
        assert markup in await page.text("#outcomes")
        assert markup in await page.text(FIRST_ROW)
        assert await page.evaluate("[document.images.length, document.title]") == [0, "qlb"]
        wide, window = await page.evaluate(WIDTHS)
        assert wide <= window


async def test_the_page_stays_readable_with_thousands_of_backends(tmp_path: Path) -> None:
    """The page shows twenty backends and the total number, and finds the others by name."""
    servers = [Server(f"agent-{number}", number.to_bytes(4), ("127.0.9.1", 10_000 + number)) for number in range(MANY)]
    config = configuration([("127.0.0.1", free_port())], [PARAMS], servers, health={"probe": "none"})
    async with running(tmp_path / "daemon", config) as daemon, page_of(daemon, tmp_path) as page:
        await page.until_shown("#filtered", lambda shown: shown.startswith("20 of 2,000 shown"))
        assert await page.evaluate("document.querySelectorAll('#backends tbody tr').length") == 20
        await page.evaluate("(at('filter').value = 'agent-1321', at('filter').dispatchEvent(new Event('input')))")
        await page.until_shown("#backends tbody tr td:first-child", lambda shown: shown.startswith("agent-1321\n"))
        assert await page.text("#filtered") == "1 of 2,000 shown"
