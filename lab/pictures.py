"""Take the pictures of the status page and of qlb top in docs/: real calls, a draining backend, one with a wrong key.

Run: python -m lab.pictures FOLDER
"""

import asyncio
import io
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from lab.browser import DESKTOP, PHONE, Browser, browser
from lab.clients import in_progress
from lab.daemon import Daemon
from lab.scrape import POLL_S
from lab.stage import KEY, stage
from qlb.cid import CidGenerator, CidParams
from qlb.cli import top

CALLS: Final = 30
LONG_S: Final = 300.0
HISTORY: Final = 75
"""The number of /status answers that are drawn before the picture is taken."""
HEALTH: Final = {"probe": "handshake", "interval": "1s", "timeout": "20s"}
"""A probe of a sound server must not fail on a busy machine."""
WRONG: Final = CidParams(config_id=1, server_id_length=4, nonce_length=12, key=KEY[::-1])
TERMINAL: Final = (80, 24)


async def take(folder: Path, scratch: Path) -> None:
    """Write the pictures of the page, for a desktop, in the dark and on a phone, and top.svg into a folder."""
    sections: dict[str, Any] = {"health": HEALTH, "drain": {"quiet_period": "1m"}}
    async with stage(scratch, limit_s=LONG_S, **sections) as scene, browser(scratch / "profile") as window:
        await window.emulate(DESKTOP)
        await window.open("http://{}:{}/".format(*scene.daemon.admin))
        async with in_progress(scene.addresses(CALLS)) as calls, in_progress(scene.addresses(CALLS)) as more_calls:
            await until_drawn(HISTORY // 3, window)
            await scene.daemon.command("drain", scene.servers[1].name)
            last = scene.servers[2]
            assert last.rotation is not None
            assert last.server_id is not None
            scene.nat.rebind_all()  # before the rotation: a client that already uses a wrong ID would lose its call
            last.rotation.rotate(CidGenerator(WRONG, last.server_id))
            await scene.daemon.until_applied(is_as_described)  # a handshake does not survive that its backend goes down
            async with in_progress(scene.addresses(CALLS)) as new_calls:
                await until_drawn(HISTORY, window)
                await scene.daemon.until_applied(is_as_described)
                await window.screenshot(folder / "status-page.png")
                await window.emulate(DESKTOP, dark=True)
                await window.screenshot(folder / "status-page-dark.png")
                await window.emulate(PHONE)
                await window.screenshot(folder / "status-page-phone.png")
                (folder / "top.svg").write_text(drawn(await terminal(scene.daemon)))
        lost = [calls.lost, more_calls.lost, new_calls.lost]
        assert lost == [[], [], []], lost


def is_as_described(status: dict[str, Any]) -> bool:
    """Return whether only the last backend is down, because of a finding."""
    rows = status["backends"]
    return [row["healthy"] for row in rows] == [True, True, False] and bool(rows[2]["finding"])


async def until_drawn(points: int, window: Browser) -> None:
    """Wait until a line has this number of points."""
    script = "([...lines.values()][0] || []).length"
    while int(await window.evaluate(script)) < points:
        await asyncio.sleep(POLL_S)


async def terminal(daemon: Daemon) -> list[str]:
    """Return the lines of ``qlb top`` in a terminal of 80 columns and 24 lines."""
    path = daemon.socket
    before = await asyncio.to_thread(top.read_status, path)
    await asyncio.sleep(1)
    return top.screen(await asyncio.to_thread(top.read_status, path), before, *TERMINAL)


def drawn(lines: Sequence[str]) -> str:
    """Return the lines as SVG. It loads no font from elsewhere."""
    width, height = TERMINAL
    console = Console(width=width, height=height, record=True, file=io.StringIO(), force_terminal=True)
    console.print(top.drawable(lines, width))
    plain = re.sub(r"@font-face \{\{.*?\}\}\s*|<!--.*?-->\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    return console.export_svg(title="qlb top", code_format=plain, unique_id="qlb")


def main() -> None:
    """Take the pictures."""
    with tempfile.TemporaryDirectory() as scratch:
        asyncio.run(take(Path(sys.argv[1]), Path(scratch)))


if __name__ == "__main__":
    main()
