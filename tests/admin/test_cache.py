"""The page cache: one rendering of a page is shared by many readers."""

import asyncio
import dataclasses
import threading
from collections.abc import Callable

import pytest

from lab.readings import sample_reading
from qlb.admin.pages import PageCache
from qlb.observe.figures import Reading


class Stage:
    """A page cache on clocks that the test sets, with a renderer that returns the number of its reading."""

    def __init__(self) -> None:
        """Create a cache in which no page is rendered yet."""
        self.now_s = 100.0
        self.used_s = 0.0
        self.reading_cost_s = 0.0
        self.render_cost_s = 0.0
        self.readings = 0
        self.error: Exception | None = None
        self.threads: set[int] = set()
        self.cache = PageCache(self.read, now=lambda: self.now_s, used=lambda: self.used_s)

    def read(self) -> Reading:
        """Return a new reading. Its generation is the number of readings so far."""
        self.readings += 1
        self.used_s += self.reading_cost_s
        return dataclasses.replace(sample_reading(), generation=self.readings)

    def render(self, reading: Reading) -> bytes:
        """Render the generation of a reading."""
        self.threads.add(threading.get_ident())
        if self.error is not None:
            raise self.error
        self.used_s += self.render_cost_s
        return str(reading.generation).encode()

    async def page(self, key: str = "status") -> int:
        """Request a page and return the number of the reading behind it."""
        return int(await self.cache.page(key, self.render))


@pytest.fixture
def stage() -> Stage:
    """Return a new stage."""
    return Stage()


async def test_a_cheap_page_is_rendered_for_each_request(stage: Stage) -> None:
    """A cheap page is rendered for each request, so the next status shows the last packet."""
    stage.render_cost_s = 0.001
    assert [await stage.page() for _ in range(20)] == list(range(1, 21))


async def test_many_readers_share_an_expensive_page(stage: Stage) -> None:
    """An expensive page is rendered once a second, however many readers request it."""
    stage.render_cost_s = 0.1
    assert [await stage.page() for _ in range(50)] == [1] * 50
    stage.now_s += 0.99
    assert await stage.page() == 1
    stage.now_s += 0.01
    assert [await stage.page() for _ in range(50)] == [2] * 50


async def test_many_renderings_of_a_small_page_use_up_the_budget(stage: Stage) -> None:
    """Without a pause, cheap pages may use a twentieth of a core. After a pause, the next page is new."""
    stage.render_cost_s = 0.01
    pages = [await stage.page() for _ in range(1000)]
    assert max(pages) == 5
    for _ in range(10):
        stage.now_s += 0.1
        pages.append(await stage.page())
    assert max(pages) <= 5 + 1.0 * 0.05 / 0.01 + 1
    stage.now_s += 60.0
    assert await stage.page() == max(pages) + 1


async def test_an_expensive_page_may_be_older(stage: Stage) -> None:
    """Rendering an expensive page uses at most a fifth of a core, so the page gets older."""
    stage.render_cost_s = 2.0
    assert await stage.page() == 1
    stage.now_s += 7.9
    assert await stage.page() == 1
    stage.now_s += 0.1
    assert await stage.page() == 2


async def test_each_key_has_its_page(stage: Stage) -> None:
    """Each key has its own page. All keys share one budget."""
    stage.render_cost_s = 1.0
    assert [await stage.page("a"), await stage.page("b"), await stage.page("a")] == [1, 2, 1]


async def test_readings_are_shared_too(stage: Stage) -> None:
    """Readings are cached too, and each rendering replaces the cached reading."""
    stage.reading_cost_s = 0.2
    assert [stage.cache.reading().generation for _ in range(3)] == [1, 1, 1]
    assert await stage.page() == 2
    assert stage.cache.reading().generation == 2
    stage.now_s += 1.0
    assert stage.cache.reading().generation == 3


async def test_a_change_shows_at_once(stage: Stage) -> None:
    """After clear(), the next page and the next reading are new."""
    stage.render_cost_s = stage.reading_cost_s = 1.0
    await stage.page()
    stage.cache.clear()
    assert stage.cache.reading().generation == 2
    assert await stage.page() == 3


async def test_rendering_is_not_on_the_loop(stage: Stage) -> None:
    """Pages are rendered in another thread, so a large page delays neither health probes nor /readyz."""
    await stage.page()
    assert threading.get_ident() not in stage.threads


def gate(stage: Stage) -> tuple[Callable[[Reading], bytes], asyncio.Event, threading.Event]:
    """Return a renderer that waits, the event "rendering has begun", and the event that lets it finish."""
    loop, begun, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def render(reading: Reading) -> bytes:
        loop.call_soon_threadsafe(begun.set)
        assert go_on.wait(60.0)
        return stage.render(reading)

    return render, begun, go_on


async def test_readers_at_once_wait_for_one_rendering(stage: Stage) -> None:
    """Concurrent readers share one rendering. A reader that is cancelled does not cancel it for the others."""
    render, begun, go_on = gate(stage)
    readers = [asyncio.create_task(stage.cache.page("status", render)) for _ in range(8)]
    await begun.wait()
    readers[0].cancel()
    await asyncio.wait(readers[:1])
    go_on.set()
    assert await asyncio.gather(*readers[1:]) == [b"1"] * 7


async def test_a_rendering_from_before_a_change_is_not_cached(stage: Stage) -> None:
    """A request after clear() waits for a new rendering. The older rendering is not cached."""
    stage.render_cost_s = 1.0
    render, begun, go_on = gate(stage)
    early = asyncio.create_task(stage.cache.page("status", render))
    await begun.wait()
    stage.cache.clear()
    late = asyncio.create_task(stage.page())
    assert await late == 2
    go_on.set()
    assert await early == b"1"
    assert await stage.page() == 2


async def test_a_failure_reaches_every_reader_and_is_not_cached(stage: Stage) -> None:
    """Every waiting reader gets the error. The error is not cached, so the next rendering may succeed."""
    stage.error = RuntimeError("broken")
    found = await asyncio.gather(stage.page(), stage.page(), return_exceptions=True)
    assert [str(one) for one in found] == ["broken", "broken"]
    stage.error = None
    assert await stage.page() == 2
