"""The sources of a daemon: the times of questions, the reports of changes, and the log lines."""

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
    """A source that gives the answers of a test one after the other, and repeats the last one."""

    kind = "scripted"
    retry_s = 0.001

    def __init__(
        self, name: str, *answers: Sequence[Backend] | str, remarks: tuple[Remark, ...] = (), patience: int = 1
    ) -> None:
        """answers: backends, or the text of an error. A text with ! raises an unexpected error."""
        self.name = name
        self.patience = patience
        self.most = 100
        self.answers = list(answers)
        self.remarks = remarks
        self.asked = 0
        self.recalled: list[tuple[Backend, ...]] = []

    def recall(self, backends: Sequence[Backend]) -> None:
        """Store the backends."""
        self.recalled.append(tuple(backends))

    async def ask(self) -> Answer:
        """Return the next answer."""
        await asyncio.sleep(0)
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        if isinstance(answer, str):
            raise ZeroDivisionError(answer) if "!" in answer else DiscoveryError(answer)
        return Answer(tuple(answer), 0.001, self.remarks)

    async def until_asked(self, times: int) -> None:
        """Wait until a number of questions was asked and the last answer was processed."""
        await self.until(lambda: self.asked >= times + 1)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until a condition is true."""
        async with asyncio.timeout(60):
            while not holds():
                await asyncio.sleep(0)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings in the log."""
    return [record.message for record in caplog.records if record.levelno == logging.WARNING]


async def test_only_changes_are_reported() -> None:
    """An answer is reported if it differs from the one before."""
    reported: list[tuple[str, tuple[Backend, ...]]] = []
    discovery = Discovery(lambda name, backends: reported.append((name, backends)))
    source = Scripted("one", [A], [A], [A, B], "gone", [A, B], [])
    discovery.apply([source])
    await source.until_asked(7)
    await discovery.stop()
    assert reported == [("one", (A,)), ("one", (A, B)), ("one", ())]


async def test_failures_are_logged_once_and_backends_stay(caplog: pytest.LogCaptureFixture) -> None:
    """A failing source is logged once, and once when it works again. Its backends stay."""
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
        "discovery fails; the backends that it found before stay",
        "discovery works",
    ]


async def test_a_remark_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """The same remark is logged once."""
    discovery = Discovery(lambda *_: None)
    source = Scripted("one", [A], remarks=(Remark("odd", "it is odd"),))
    discovery.apply([source])
    await source.until_asked(5)
    await discovery.stop()
    assert warnings(caplog) == ["discovery: it is odd"]
    assert discovery.sources["one"].remarks == (Remark("odd", "it is odd"),)


async def test_changing_remarks_are_limited(caplog: pytest.LogCaptureFixture) -> None:
    """A topic whose text changes, or that comes and goes, is logged once in REMARK_S seconds."""
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


async def test_an_unexpected_error_ends_no_source(caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected error is logged once with its traceback, and the source is asked again."""
    reported: list[tuple[Backend, ...]] = []
    discovery = Discovery(lambda _, backends: reported.append(backends))
    source = Scripted("one", [A], "odd!", "odd!", [B])
    discovery.apply([source])
    await source.until_asked(2)
    assert discovery.sources["one"].error == "ZeroDivisionError: odd!"
    await source.until_asked(5)
    await discovery.stop()
    assert reported == [(A,), (B,)]
    assert [record.message for record in caplog.records if record.levelno == logging.ERROR] == [
        "discovery: unexpected error"
    ]


async def test_no_backends_from_the_start_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """A first answer without backends causes a warning (the name may be misspelled), and the source is up."""
    discovery = Discovery(lambda *_: None)
    source = Scripted("one", [])
    discovery.apply([source])
    await source.until_asked(3)
    await discovery.stop()
    assert warnings(caplog) == ["discovery: no backends: the source has none"]
    assert discovery.sources["one"].up


async def test_a_source_gets_the_backends_from_before() -> None:
    """A new source gets the backends that an earlier process, or the source before a reload, has found."""
    discovery = Discovery(lambda *_: None)
    first, again = Scripted("one", [A, B]), Scripted("one", [A, B])
    discovery.apply([first], {"one": (A,)})
    await first.until_asked(1)
    discovery.apply([again])
    await discovery.stop()
    assert (first.recalled, again.recalled) == ([(A,)], [(A, B)])


async def test_a_missing_backend_is_removed_after_patience() -> None:
    """A backend that is missing from as many answers in a row as patience says is removed."""
    reported: list[tuple[Backend, ...]] = []
    discovery = Discovery(lambda _, backends: reported.append(backends))
    source = Scripted("one", [A, B], [A], [A], [A, B], [A], [A], [A], [B], patience=3)
    discovery.apply([source])
    await source.until_asked(5)
    assert reported == [(A, B)]
    await source.until_asked(6)
    assert reported[:2] == [(A, B), (A,)]
    await discovery.stop()


async def test_after_a_missing_backend_the_next_question_comes_soon() -> None:
    """While a backend is missing, the source is asked after retry_s, not after the TTL."""

    class Slow(Scripted):
        """A source whose incomplete answers are valid for an hour."""

        async def ask(self) -> Answer:
            """Return the next answer."""
            answer = await super().ask()
            return answer if A in answer.backends and B in answer.backends else answer._replace(again_s=3600.0)

    reported: list[tuple[Backend, ...]] = []
    discovery = Discovery(lambda _, backends: reported.append(backends))
    source = Slow("one", [A, B], [A], [A], [A], patience=3)
    discovery.apply([source])
    await source.until(lambda: reported == [(A, B), (A,)])
    await discovery.stop()


@pytest.mark.parametrize("again", range(5))
async def test_rotating_answers_are_one_pool(again: int, caplog: pytest.LogCaptureFixture) -> None:
    """Random answers with three of nine backends remove none, and the log has one line about them."""
    every = [Backend(f"b{number}", Endpoint("10.0.0.1", number)) for number in range(1, 10)]
    chance = random.Random(again)
    reported: list[tuple[Backend, ...]] = []
    discovery = Discovery(lambda _, backends: reported.append(backends))
    source = Scripted("one", *(chance.sample(every, 3) for _ in range(60)), patience=3)
    discovery.apply([source])
    await source.until_asked(50)
    await discovery.stop()
    pools = [{one.name for one in backends} for backends in reported]
    assert pools[-1] == {one.name for one in every}
    assert all(before < now for before, now in pairwise(pools))
    (warning,) = warnings(caplog)
    assert warning.startswith("discovery: each answer has another part of the backends: a backend is removed")


async def test_a_reload_asks_at_once() -> None:
    """A reload asks every source at once. A source that stays has its old backends. Removed ones are not asked."""
    reported: list[str] = []
    discovery = Discovery(lambda name, _: reported.append(name))
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
    assert reported == ["one", "two"]


async def test_long_errors_are_shortened() -> None:
    """At most 500 characters of an error are stored."""
    discovery = Discovery(lambda *_: None)
    source = Scripted("one", "x" * 10_000)
    discovery.apply([source])
    await source.until_asked(2)
    await discovery.stop()
    assert len(discovery.sources["one"].error) == 500


async def test_empty_answers_apply_after_patience() -> None:
    """Empty answers apply after as many in a row as patience says. An answer with backends restarts the count."""
    reported: list[tuple[Backend, ...]] = []
    discovery = Discovery(lambda _, backends: reported.append(backends))
    source = Scripted("one", [A], [], [], [A, B], [], [], [], [], patience=3)
    discovery.apply([source])
    await source.until_asked(4)
    assert reported == [(A,), (A, B)]
    await source.until_asked(5)
    error = discovery.sources["one"].error
    assert error == "the source returned no backends (2 of 3 before they are removed)"
    await source.until_asked(8)
    await discovery.stop()
    assert reported == [(A,), (A, B), ()]
    assert discovery.sources["one"].up


@pytest.mark.parametrize("reloaded", [False, True])
async def test_empty_answers_apply_no_sooner_after_a_reload(reloaded: bool) -> None:
    """After a reload or a restart, empty answers need the same patience as before."""
    reported: list[tuple[Backend, ...]] = []
    discovery = Discovery(lambda _, backends: reported.append(backends))
    if reloaded:
        first = Scripted("one", [A], patience=3)
        discovery.apply([first])
        await first.until_asked(1)
    again = Scripted("one", [], [], [A], patience=3)
    discovery.apply([again], {} if reloaded else {"one": (A,)})
    await again.until_asked(4)
    await discovery.stop()
    assert reported == ([(A,)] if reloaded else [])
