"""Pages that are rendered once for many readers."""

import asyncio
import dataclasses
import threading
from collections.abc import Callable

import pytest

from lab.readings import sample_reading
from qlb.admin.pages import PageCache
from qlb.observe.figures import Reading


class Stage:
    """A cache on clocks of the test's own, and a renderer that tells which reading it had."""

    def __init__(self) -> None:
        """Nothing is rendered yet."""
        self.now_s = 100.0
        self.used_s = 0.0
        self.reading_cost_s = 0.0
        self.render_cost_s = 0.0
        self.readings = 0
        self.error: Exception | None = None
        self.threads: set[int] = set()
        self.cache = PageCache(self.read, now=lambda: self.now_s, used=lambda: self.used_s)

    def read(self) -> Reading:
        """Take a reading; its generation counts them."""
        self.readings += 1
        self.used_s += self.reading_cost_s
        return dataclasses.replace(sample_reading(), generation=self.readings)

    def render(self, reading: Reading) -> bytes:
        """Return the reading's number."""
        self.threads.add(threading.get_ident())
        if self.error is not None:
            raise self.error
        self.used_s += self.render_cost_s
        return str(reading.generation).encode()

    async def page(self, key: str = "status") -> int:
        """Ask for a page."""
        return int(await self.cache.page(key, self.render))


@pytest.fixture
def stage() -> Stage:
    """What is under test."""
    return Stage()


async def test_a_reader_who_comes_alone_gets_a_page_made_for_it(stage: Stage) -> None:
    """Small pages are always new: what was just sent shows in the next status."""
    stage.render_cost_s = 0.001
    assert [await stage.page() for _ in range(20)] == list(range(1, 21))


async def test_many_readers_share_a_page_that_costs(stage: Stage) -> None:
    """Within a second there is one rendering, then another."""
    stage.render_cost_s = 0.1
    assert [await stage.page() for _ in range(50)] == [1] * 50
    stage.now_s += 0.99
    assert await stage.page() == 1
    stage.now_s += 0.01
    assert [await stage.page() for _ in range(50)] == [2] * 50


async def test_many_renderings_of_a_small_page_use_up_the_budget(stage: Stage) -> None:
    """Without a pause they get a twentieth of a core; after a pause a page is new again."""
    stage.render_cost_s = 0.01
    pages = [await stage.page() for _ in range(1000)]
    assert max(pages) == 5
    for _ in range(10):
        stage.now_s += 0.1
        pages.append(await stage.page())
    assert max(pages) <= 5 + 1.0 * 0.05 / 0.01 + 1
    stage.now_s += 60.0
    assert await stage.page() == max(pages) + 1


async def test_an_expensive_page_is_older(stage: Stage) -> None:
    """It never takes more than a fifth of a core."""
    stage.render_cost_s = 2.0
    assert await stage.page() == 1
    stage.now_s += 7.9
    assert await stage.page() == 1
    stage.now_s += 0.1
    assert await stage.page() == 2


async def test_each_key_has_its_page(stage: Stage) -> None:
    """They share the budget."""
    stage.render_cost_s = 1.0
    assert [await stage.page("a"), await stage.page("b"), await stage.page("a")] == [1, 2, 1]


async def test_readings_are_shared_too(stage: Stage) -> None:
    """And a rendering brings a new one along."""
    stage.reading_cost_s = 0.2
    assert [stage.cache.reading().generation for _ in range(3)] == [1, 1, 1]
    assert await stage.page() == 2
    assert stage.cache.reading().generation == 2
    stage.now_s += 1.0
    assert stage.cache.reading().generation == 3


async def test_what_was_changed_shows_at_once(stage: Stage) -> None:
    """After clear() the next page and the next reading are new."""
    stage.render_cost_s = stage.reading_cost_s = 1.0
    await stage.page()
    stage.cache.clear()
    assert stage.cache.reading().generation == 2
    assert await stage.page() == 3


async def test_rendering_is_not_on_the_loop(stage: Stage) -> None:
    """A large page keeps neither health probes nor /readyz waiting."""
    await stage.page()
    assert threading.get_ident() not in stage.threads


def gate(stage: Stage) -> tuple[Callable[[Reading], bytes], asyncio.Event, threading.Event]:
    """Return a renderer that waits, the event that it has begun, and the one that lets it go on."""
    loop, begun, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def render(reading: Reading) -> bytes:
        loop.call_soon_threadsafe(begun.set)
        assert go_on.wait(60.0)
        return stage.render(reading)

    return render, begun, go_on


async def test_readers_at_once_wait_for_one_rendering(stage: Stage) -> None:
    """One that leaves meanwhile takes nothing from the others."""
    render, begun, go_on = gate(stage)
    readers = [asyncio.create_task(stage.cache.page("status", render)) for _ in range(8)]
    await begun.wait()
    readers[0].cancel()
    await asyncio.wait(readers[:1])
    go_on.set()
    assert await asyncio.gather(*readers[1:]) == [b"1"] * 7


async def test_a_rendering_from_before_a_change_is_not_kept(stage: Stage) -> None:
    """Whoever asks after clear() waits for another one."""
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


async def test_a_failure_is_told_to_every_reader_and_not_kept(stage: Stage) -> None:
    """The next one may succeed."""
    stage.error = RuntimeError("broken")
    found = await asyncio.gather(stage.page(), stage.page(), return_exceptions=True)
    assert [str(one) for one in found] == ["broken", "broken"]
    stage.error = None
    assert await stage.page() == 2
