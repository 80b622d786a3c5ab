"""Tests of a daemon's sources: they are asked in time and at once after a reload, and failures are logged."""

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
    """A source that returns scripted answers in turn, and repeats the last one."""

    kind = "scripted"
    retry_s = 0.001

    def __init__(
        self, name: str, *answers: Sequence[Backend] | str, remarks: tuple[Remark, ...] = (), patience: int = 1
    ) -> None:
        """answers: backends, or the text of an error; a text with ! is raised as an unexpected error."""
        self.name = name
        self.patience = patience
        self.most = 100
        self.answers = list(answers)
        self.remarks = remarks
        self.asked = 0
        self.recalled: list[tuple[Backend, ...]] = []

    def recall(self, backends: Sequence[Backend]) -> None:
        """Record the backends."""
        self.recalled.append(tuple(backends))

    async def ask(self) -> Answer:
        """Return or raise the next answer."""
        await asyncio.sleep(0)
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        if isinstance(answer, str):
            raise ZeroDivisionError(answer) if "!" in answer else DiscoveryError(answer)
        return Answer(tuple(answer), 0.001, self.remarks)

    async def until_asked(self, times: int) -> None:
        """Wait until the source was asked ``times`` times and the last answer was processed."""
        await self.until(lambda: self.asked >= times + 1)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition is true."""
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings in the log."""
    return [record.message for record in caplog.records if record.levelno == logging.WARNING]


async def test_only_changes_are_reported() -> None:
    """Each answer that differs from the one before is reported, in order; equal ones are not."""
    updates: list[tuple[str, tuple[Backend, ...]]] = []
    discovery = Discovery(lambda name, backends: updates.append((name, backends)))
    source = Scripted("one", [A], [A], [A, B], "gone", [A, B], [])
    discovery.apply([source])
    await source.until_asked(7)
    await discovery.stop()
    assert updates == [("one", (A,)), ("one", (A, B)), ("one", ())]


async def test_a_failure_is_logged_once_and_backends_are_retained(caplog: pytest.LogCaptureFixture) -> None:
    """A failure is logged when it begins and when it ends; the known backends are retained."""
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
    """A remark is logged once, as long as it stays the same."""
    discovery = Discovery(lambda *_: None)
    source = Scripted("one", [A], remarks=(Remark("odd", "it is odd"),))
    discovery.apply([source])
    await source.until_asked(5)
    await discovery.stop()
    assert warnings(caplog) == ["discovery: it is odd"]
    assert discovery.sources["one"].remarks == (Remark("odd", "it is odd"),)


async def test_changing_remarks_are_rate_limited(caplog: pytest.LogCaptureFixture) -> None:
    """A topic is logged once per interval, also if its text changes or if it comes and goes."""
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


async def test_an_unexpected_error_does_not_stop_a_source(caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected error is treated like any other, logged once with a traceback, and the source is asked again."""
    updates: list[tuple[Backend, ...]] = []
    discovery = Discovery(lambda _, backends: updates.append(backends))
    source = Scripted("one", [A], "odd!", "odd!", [B])
    discovery.apply([source])
    await source.until_asked(2)
    assert discovery.sources["one"].error == "ZeroDivisionError: odd!"
    await source.until_asked(5)
    await discovery.stop()
    assert updates == [(A,), (B,)]
    assert [record.message for record in caplog.records if record.levelno == logging.ERROR] == [
        "discovery: unexpected error"
    ]


async def test_no_backends_from_the_start_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """A first answer without backends is up, with a warning, because a mistyped name looks like this."""
    discovery = Discovery(lambda *_: None)
    source = Scripted("one", [])
    discovery.apply([source])
    await source.until_asked(3)
    await discovery.stop()
    assert warnings(caplog) == ["discovery: no backends: the source has none"]
    assert discovery.sources["one"].up


async def test_a_source_recalls_known_backends() -> None:
    """A source is given the backends that an earlier process, or the source before a reload, had found."""
    discovery = Discovery(lambda *_: None)
    first, again = Scripted("one", [A, B]), Scripted("one", [A, B])
    discovery.apply([first], {"one": (A,)})
    await first.until_asked(1)
    discovery.apply([again])
    await discovery.stop()
    assert (first.recalled, again.recalled) == ([(A,)], [(A, B)])


async def test_a_missing_backend_is_removed_after_a_while() -> None:
    """A backend that is missing from an answer is removed only after several such answers."""
    updates: list[tuple[Backend, ...]] = []
    discovery = Discovery(lambda _, backends: updates.append(backends))
    source = Scripted("one", [A, B], [A], [A], [A, B], [A], [A], [A], [B], patience=3)
    discovery.apply([source])
    await source.until_asked(5)
    assert updates == [(A, B)]
    await source.until_asked(6)
    assert updates[:2] == [(A, B), (A,)]
    await discovery.stop()


async def test_after_a_missing_backend_the_source_is_asked_soon() -> None:
    """If a backend is missing, the source is asked again soon, whatever the TTL."""

    class Slow(Scripted):
        """A source whose incomplete answers have a TTL of one hour."""

        async def ask(self) -> Answer:
            """Return the next answer."""
            answer = await super().ask()
            return answer if A in answer.backends and B in answer.backends else answer._replace(again_s=3600.0)

    updates: list[tuple[Backend, ...]] = []
    discovery = Discovery(lambda _, backends: updates.append(backends))
    source = Slow("one", [A, B], [A], [A], [A], patience=3)
    discovery.apply([source])
    await source.until(lambda: updates == [(A, B), (A,)])
    await discovery.stop()


@pytest.mark.parametrize("again", range(5))
async def test_rotating_answers_are_one_pool(again: int, caplog: pytest.LogCaptureFixture) -> None:
    """If each answer has three of nine backends at random, none drains, and the log has one line about it."""
    every = [Backend(f"b{number}", Endpoint("10.0.0.1", number)) for number in range(1, 10)]
    chance = random.Random(again)
    updates: list[tuple[Backend, ...]] = []
    discovery = Discovery(lambda _, backends: updates.append(backends))
    source = Scripted("one", *(chance.sample(every, 3) for _ in range(60)), patience=3)
    discovery.apply([source])
    await source.until_asked(50)
    await discovery.stop()
    pools = [{one.name for one in backends} for backends in updates]
    assert pools[-1] == {one.name for one in every}
    assert all(before < now for before, now in pairwise(pools))
    (warning,) = warnings(caplog)
    assert warning.startswith("discovery: each answer holds another part of the backends: a backend counts as gone")


async def test_a_reload_asks_at_once() -> None:
    """A reload asks every source at once; known backends are retained until then; removed sources are asked no more."""
    updates: list[str] = []
    discovery = Discovery(lambda name, _: updates.append(name))
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
    assert updates == ["one", "two"]


async def test_long_errors_are_cut() -> None:
    """A long error text is cut to 500 characters."""
    discovery = Discovery(lambda *_: None)
    source = Scripted("one", "x" * 10_000)
    discovery.apply([source])
    await source.until_asked(2)
    await discovery.stop()
    assert len(discovery.sources["one"].error) == 500


async def test_an_empty_answer_is_accepted_after_a_while() -> None:
    """Empty answers remove all backends after as many in a row as the source's patience; others reset the count."""
    updates: list[tuple[Backend, ...]] = []
    discovery = Discovery(lambda _, backends: updates.append(backends))
    source = Scripted("one", [A], [], [], [A, B], [], [], [], [], patience=3)
    discovery.apply([source])
    await source.until_asked(4)
    assert updates == [(A,), (A, B)]
    await source.until_asked(5)
    error = discovery.sources["one"].error
    assert error == "the source returned no backends (2 of 3 before they are removed)"
    await source.until_asked(8)
    await discovery.stop()
    assert updates == [(A,), (A, B), ()]
    assert discovery.sources["one"].up


@pytest.mark.parametrize("reloaded", [False, True])
async def test_a_reload_does_not_accept_an_empty_answer_sooner(reloaded: bool) -> None:
    """After a reload or a handover, empty answers do not remove the known backends any sooner."""
    updates: list[tuple[Backend, ...]] = []
    discovery = Discovery(lambda _, backends: updates.append(backends))
    if reloaded:
        first = Scripted("one", [A], patience=3)
        discovery.apply([first])
        await first.until_asked(1)
    again = Scripted("one", [], [], [A], patience=3)
    discovery.apply([again], {} if reloaded else {"one": (A,)})
    await again.until_asked(4)
    await discovery.stop()
    assert updates == ([(A,)] if reloaded else [])
