"""The end of a daemon: it becomes unready first, and forwards until it ends."""

import asyncio
from pathlib import Path
from typing import Final

import pytest

from lab import scrape
from lab.clients import in_progress
from lab.stage import stage

pytestmark = pytest.mark.e2e

CALLS: Final = 6
PAGES: Final = ("/healthz", "/readyz")


async def test_it_is_unready_before_it_ends(tmp_path: Path) -> None:
    """With a shutdown_delay, SIGTERM turns /readyz to 503 and calls continue. A second SIGTERM ends it with 0."""
    async with stage(tmp_path, shutdown_delay="1h") as scene, in_progress(scene.addresses(CALLS)) as calls:
        admin = scene.daemon.admin
        assert [(await scrape.get(admin, page))[0] for page in PAGES] == [200, 200]
        scene.daemon.terminate()
        while (await scrape.get(admin, "/readyz"))[0] == 200:
            await asyncio.sleep(scrape.POLL_S)
        assert [(await scrape.get(admin, page))[0] for page in PAGES] == [200, 503]
        scene.nat.rebind_all()
        await calls.until_more()
        assert calls.lost == []
