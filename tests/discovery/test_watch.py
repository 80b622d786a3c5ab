"""All sources of a daemon: asked when their time has come, at once after a reload, and never silent about failing."""

import asyncio
import logging
from collections.abc import Sequence

import pytest

from qlb.discovery.source import Answer, DiscoveryError
from qlb.discovery.watch import Discovery
from qlb.routing.backends import Backend, Endpoint

A, B = (Backend(name, Endpoint("10.0.0.1", port)) for port, name in enumerate("ab", 1))


class Scripted:
    """A source that answers what a test has written, one after the other, and the last one for ever."""

    kind = "scripted"
    retry_s = 0.001

    def __init__(
        self, name: str, *answers: Sequence[Backend] | str, remarks: tuple[str, ...] = (), patience: int = 1
    ) -> None:
        """answers: backends, or the text of an error."""
        self.name = name
        self.patience = patience
        self.answers = list(answers)
        self.remarks = remarks
        self.asked = 0

    async def ask(self) -> Answer:
        """Answer."""
        await asyncio.sleep(0)
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        if isinstance(answer, str):
            raise DiscoveryError(answer)
        return Answer(tuple(answer), 0.001, self.remarks)

    async def until_asked(self, times: int) -> None:
        """Wait for so many questions, and until what the last one has brought was told."""
        async with asyncio.timeout(5):
            while self.asked < times + 1:
                await asyncio.sleep(0)


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
    source = Scripted("one", [A], remarks=("odd",))
    discovery.apply([source])
    await source.until_asked(5)
    await discovery.stop()
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == ["discovery: odd"]


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
    source = Scripted("one", [A], [], [], [B], [], [], [], [], patience=3)
    discovery.apply([source])
    await source.until_asked(4)
    assert told == [(A,), (B,)]
    await source.until_asked(5)
    assert "nobody any more" in discovery.sources["one"].error
    await source.until_asked(8)
    await discovery.stop()
    assert told == [(A,), (B,), ()]
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
