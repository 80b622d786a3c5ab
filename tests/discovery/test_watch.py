"""All sources of a daemon: asked when their time has come, at once after a reload, and never silent about failing."""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest

from qlb.addresses import Endpoint
from qlb.discovery.source import Answer, DiscoveryError, Remark
from qlb.discovery.watch import REMARK_S, Discovery
from qlb.routing.backends import Backend

A, B = (Backend(name, Endpoint("10.0.0.1", port)) for port, name in enumerate("ab", 1))


class Scripted:
    """A source that answers what a test has written, one after the other, and the last one for ever."""

    kind = "scripted"
    retry_s = 0.001

    def __init__(
        self, name: str, *answers: Sequence[Backend] | str, remarks: tuple[Remark, ...] = (), patience: int = 1
    ) -> None:
        """answers: backends, or the text of an error; one with ! is an error that nobody has foreseen."""
        self.name = name
        self.patience = patience
        self.most = 100
        self.answers = list(answers)
        self.remarks = remarks
        self.asked = 0
        self.recalled: list[tuple[Backend, ...]] = []

    def recall(self, backends: Sequence[Backend]) -> None:
        """Note it."""
        self.recalled.append(tuple(backends))

    async def ask(self) -> Answer:
        """Answer."""
        await asyncio.sleep(0)
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        if isinstance(answer, str):
            raise ZeroDivisionError(answer) if "!" in answer else DiscoveryError(answer)
        return Answer(tuple(answer), 0.001, self.remarks)

    async def until_asked(self, times: int) -> None:
        """Wait for so many questions, and until what the last one has brought was told."""
        await self.until(lambda: self.asked >= times + 1)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for something."""
        async with asyncio.timeout(60):
            while not holds():
                await asyncio.sleep(0)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings in the log."""
    return [record.message for record in caplog.records if record.levelno == logging.WARNING]


async def test_only_changes_are_told() -> None:
    """Each answer that is another one, in order; one that is the same is nothing new."""
    told: list[tuple[str, tuple[Backend, ...]]] = []
    discovery = Discovery(lambda name, backends: told.append((name, backends)))
    source = Scripted("one", [A], [A], [A, B], "gone", [A, B], [])
    discovery.apply([source])
    await source.until_asked(7)
    await discovery.stop()
    assert told == [("one", (A,)), ("one", (A, B)), ("one", ())]


async def test_failing_is_told_once_and_keeps_what_was_found(caplog: pytest.LogCaptureFixture) -> None:
    """A line when it begins and one when it ends, however long it lasts."""
    discovery = Discovery(lambda *_: None, now=lambda: 5.0)
    source = Scripted("one", [A], *["no answer"] * 5)
    with caplog.at_level(logging.INFO, logger="qlb"):
        discovery.apply([source])
        await source.until_asked(6)
        watched = discovery.sources["one"]
        assert (watched.up, watched.error, watched.backends, watched.answered_at) == (False, "no answer", (A,), 5.0)
        source.answers.append([A, B])
        source.asked = 6
        await source.until_asked(8)
        assert (watched.up, watched.error, watched.backends) == (True, "", (A, B))
        await discovery.stop()
    assert [record.message for record in caplog.records] == [
        "discovery works",
        "discovery fails; what was found before is kept",
        "discovery works",
    ]


async def test_a_remark_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """As long as it is the same."""
    discovery = Discovery(lambda *_: None)
    source = Scripted("one", [A], remarks=(Remark("odd", "it is odd"),))
    discovery.apply([source])
    await source.until_asked(5)
    await discovery.stop()
    assert warnings(caplog) == ["discovery: it is odd"]
    assert discovery.sources["one"].remarks == (Remark("odd", "it is odd"),)


async def test_remarks_that_change_are_no_flood(caplog: pytest.LogCaptureFixture) -> None:
    """A topic is logged once in a while, however its text changes, and however often it comes and goes."""
    now_s = 0.0
    discovery = Discovery(lambda *_: None, now=lambda: now_s)
    source = Scripted("one", [A])
    discovery.apply([source])
    for number in range(10):
        source.remarks = (Remark("odd", f"odd {number}"),) if number % 3 else ()
        await source.until_asked(source.asked + 2)
    assert warnings(caplog) == ["discovery: odd 1"]
    now_s = REMARK_S
    source.remarks = (Remark("odd", "odd again"), Remark("other", "another one"))
    await source.until_asked(source.asked + 2)
    assert warnings(caplog)[1:] == ["discovery: odd again", "discovery: another one"]
    now_s = 3 * REMARK_S
    await source.until_asked(source.asked + 2)
    await discovery.stop()
    assert len(warnings(caplog)) == 3


async def test_what_nobody_has_foreseen_ends_no_source(caplog: pytest.LogCaptureFixture) -> None:
    """It is an error like any other, logged with its place once, and the source is asked again."""
    told: list[tuple[Backend, ...]] = []
    discovery = Discovery(lambda _, backends: told.append(backends))
    source = Scripted("one", [A], "odd!", "odd!", [B])
    discovery.apply([source])
    await source.until_asked(2)
    assert discovery.sources["one"].error == "ZeroDivisionError: odd!"
    await source.until_asked(5)
    await discovery.stop()
    assert told == [(A,), (B,)]
    assert [record.message for record in caplog.records if record.levelno == logging.ERROR] == [
        "discovery: unexpected error"
    ]


async def test_no_backends_from_the_start_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """It was answered, so it is up; a typing mistake in a name looks like that."""
    discovery = Discovery(lambda *_: None)
    source = Scripted("one", [])
    discovery.apply([source])
    await source.until_asked(3)
    await discovery.stop()
    assert warnings(caplog) == ["discovery: no backends: the source has none"]
    assert discovery.sources["one"].up


async def test_a_source_learns_what_was_found_before_it() -> None:
    """By an earlier process, or before a reload."""
    discovery = Discovery(lambda *_: None)
    first, again = Scripted("one", [A, B]), Scripted("one", [A, B])
    discovery.apply([first], {"one": (A,)})
    await first.until_asked(1)
    discovery.apply([again])
    await discovery.stop()
    assert (first.recalled, again.recalled) == ([(A,)], [(A, B)])


async def test_one_that_is_missing_is_believed_gone_after_a_while() -> None:
    """Like all of them; meanwhile the source is asked again soon, whatever its TTL."""
    told: list[tuple[Backend, ...]] = []
    discovery = Discovery(lambda _, backends: told.append(backends))
    source = Scripted("one", [A, B], [A], [A], [A, B], [A], [A], [A], [B], patience=3)
    discovery.apply([source])
    await source.until_asked(5)
    assert told == [(A, B)]
    await source.until_asked(6)
    assert told[:2] == [(A, B), (A,)]
    await discovery.stop()


async def test_a_missing_one_is_asked_for_soon() -> None:
    """Not when the TTL has run out."""

    class Slow(Scripted):
        """Its answers hold for an hour, and only those that lack somebody come again soon."""

        async def ask(self) -> Answer:
            """Answer."""
            answer = await super().ask()
            return answer if A in answer.backends and B in answer.backends else answer._replace(again_s=3600.0)

    told: list[tuple[Backend, ...]] = []
    discovery = Discovery(lambda _, backends: told.append(backends))
    source = Slow("one", [A, B], [A], [A], [A], patience=3)
    discovery.apply([source])
    await source.until(lambda: told == [(A, B), (A,)])
    await discovery.stop()


@pytest.mark.parametrize("again", range(5))
async def test_rotating_answers_are_one_pool(again: int, caplog: pytest.LogCaptureFixture) -> None:
    """Three of nine each time, at random: nobody drains, and the log has a line about it."""
    every = [Backend(f"b{number}", Endpoint("10.0.0.1", number)) for number in range(1, 10)]
    chance = random.Random(again)
    told: list[tuple[Backend, ...]] = []
    discovery = Discovery(lambda _, backends: told.append(backends))
    source = Scripted("one", *(chance.sample(every, 3) for _ in range(60)), patience=3)
    discovery.apply([source])
    await source.until_asked(50)
    await discovery.stop()
    pools = [{one.name for one in backends} for backends in told]
    assert pools[-1] == {one.name for one in every}
    assert all(before < now for before, now in pairwise(pools))
    (warning,) = warnings(caplog)
    assert warning.startswith("discovery: each answer holds another part of the backends: a backend counts as gone")


async def test_a_reload_asks_at_once() -> None:
    """Every source, those that stay keep what they have found until they answer; others are asked no more."""
    told: list[str] = []
    discovery = Discovery(lambda name, _: told.append(name))
    first, other = Scripted("one", [A]), Scripted("two", [B])
    discovery.apply([first, other])
    await first.until_asked(1)
    await other.until_asked(1)
    again = Scripted("one", [A])
    discovery.apply([again])
    assert list(discovery.sources) == ["one"]
    assert discovery.sources["one"].backends == (A,)
    await again.until_asked(2)
    asked = other.asked
    await again.until_asked(5)
    assert other.asked == asked
    await discovery.stop()
    assert told == ["one", "two"]


async def test_long_errors_are_cut() -> None:
    """What others say is not kept without end."""
    discovery = Discovery(lambda *_: None)
    source = Scripted("one", "x" * 10_000)
    discovery.apply([source])
    await source.until_asked(2)
    await discovery.stop()
    assert len(discovery.sources["one"].error) == 500


async def test_nobody_is_believed_after_a_while() -> None:
    """As many times in a row as the source's patience says; one answer between begins anew."""
    told: list[tuple[Backend, ...]] = []
    discovery = Discovery(lambda _, backends: told.append(backends))
    source = Scripted("one", [A], [], [], [A, B], [], [], [], [], patience=3)
    discovery.apply([source])
    await source.until_asked(4)
    assert told == [(A,), (A, B)]
    await source.until_asked(5)
    error = discovery.sources["one"].error
    assert error == "the source returned no backends (2 of 3 before they are removed)"
    await source.until_asked(8)
    await discovery.stop()
    assert told == [(A,), (A, B), ()]
    assert discovery.sources["one"].up


@pytest.mark.parametrize("reloaded", [False, True])
async def test_nobody_is_not_believed_because_one_asks_anew(reloaded: bool) -> None:
    """After a reload, and in the next process: what was known before is doubted no sooner."""
    told: list[tuple[Backend, ...]] = []
    discovery = Discovery(lambda _, backends: told.append(backends))
    if reloaded:
        first = Scripted("one", [A], patience=3)
        discovery.apply([first])
        await first.until_asked(1)
    again = Scripted("one", [], [], [A], patience=3)
    discovery.apply([again], {} if reloaded else {"one": (A,)})
    await again.until_asked(4)
    await discovery.stop()
    assert told == ([(A,)] if reloaded else [])
