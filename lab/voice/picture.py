"""Take the picture of the voice agent's page in docs/: a call of 30 s whose address changes every second.

Run: python -m lab.voice.picture FOLDER
"""

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Final

from lab.browser import browser
from lab.scrape import POLL_S
from lab.voice.stage import voice_demo

WINDOW: Final = (1000, 560)
DELAY_S: Final = 0.02
LIMIT_S: Final = 360.0


async def take(folder: Path, scratch: Path) -> None:
    """Write voice-agent.png into a folder."""
    async with (
        asyncio.timeout(LIMIT_S),
        voice_demo(scratch, delay_s=DELAY_S) as demo,
        browser(scratch / "profile") as window,
    ):
        await window.emulate(WINDOW)
        await window.open(demo.page_url)
        await window.click("#call")
        await window.until_shown("#agent", lambda shown: shown.startswith("agent-"))
        await window.evaluate("drawn.splice(0)")
        await window.click("#each-second")
        while await window.evaluate("drawn.length < HISTORY"):
            await asyncio.sleep(POLL_S)
        await window.screenshot(folder / "voice-agent.png")
        assert await window.evaluate("call.lost") is None


def main() -> None:
    """Take the picture."""
    with tempfile.TemporaryDirectory() as scratch:
        asyncio.run(take(Path(sys.argv[1]), Path(scratch)))


if __name__ == "__main__":
    main()
