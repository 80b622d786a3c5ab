"""Take the pictures of the status page in docs/: real calls, one draining backend, one with a wrong key.

Run: python -m lab.pictures FOLDER
"""

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from lab.browser import DESKTOP, PHONE, Browser, browser
from lab.clients import in_progress
from lab.scrape import POLL_S
from lab.stage import KEY, stage
from qlb.cid import CidGenerator, CidParams

CALLS: Final = 30
LONG_S: Final = 150.0
HISTORY: Final = 75
"""The number of /status answers that are drawn before the picture is taken."""
HEALTH: Final = {"probe": "handshake", "interval": "1s", "timeout": "2s"}
WRONG: Final = CidParams(config_id=1, server_id_length=4, nonce_length=12, key=KEY[::-1])


async def take(folder: Path, scratch: Path) -> None:
    """Write status-page.png and status-page-phone.png into a folder."""
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
            last.rotation.rotate(CidGenerator(WRONG, last.server_id))
            scene.nat.rebind_all()
            async with in_progress(scene.addresses(CALLS)) as new_calls:
                await until_drawn(HISTORY, window)
                await window.screenshot(folder / "status-page.png")
                await window.emulate(PHONE, dark=True)
                await window.screenshot(folder / "status-page-phone.png")
        assert calls.lost + more_calls.lost + new_calls.lost == []


async def until_drawn(points: int, window: Browser) -> None:
    """Wait until a line has this number of points."""
    script = "[...rates.values()][0].length"
    while int(await window.evaluate(script)) < points:
        await asyncio.sleep(POLL_S)


def main() -> None:
    """Take the pictures."""
    with tempfile.TemporaryDirectory() as scratch:
        asyncio.run(take(Path(sys.argv[1]), Path(scratch)))


if __name__ == "__main__":
    main()
