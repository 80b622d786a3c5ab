"""Reloads: many requests are few, what was refused is tried again when its reason has gone, and nothing is repeated."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from qlb.config.changes import changes
from qlb.config.load import Loaded, load
from qlb.daemon import file_watch
from qlb.daemon import reload as reloads
from qlb.daemon.desired import Desired
from qlb.daemon.guard import Objection
from qlb.daemon.reload import Reloads
from qlb.errors import QlbError
from qlb.routing.backends import BackendState

LIMIT_S = 240.0
TEXT = """
listen: ["127.0.0.1:4433"]
reload_on_change: true
drain: {quiet_period: 60s}
backends:
  - {name: a, address: "127.0.0.1:5001"}
  - {name: b, address: "127.0.0.1:5002"}
"""
WITHOUT_B = TEXT.replace('  - {name: b, address: "127.0.0.1:5002"}\n', "")
B_IS_BUSY = Objection("backend 'b' still gets packets (the last one 1.0 s ago)", 59.0, "backend b", "b")


class Daemon:
    """What is reloaded: it takes over what nothing speaks against."""

    def __init__(self, path: Path) -> None:
        """path: of the configuration."""
        self.desired = Desired(load(path))
        self.against: Sequence[Objection] = ()
        self.why = ""
        self.told = 0
        self.attempts = 0
        self.taken = 0
        self.error: QlbError | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    def why_no_reload(self) -> str:
        """As a supervisor."""
        return self.why

    async def objections(self, loaded: Loaded) -> Sequence[Objection]:
        """Return what the test has set, about backends that the configuration does not have."""
        self.attempts += 1
        await self.gate.wait()
        names = {backend.name for backend in loaded.config.backends}
        return [one for one in self.against if one.backend not in names]

    async def take_over(self, loaded: Loaded) -> reloads.TakenOver:
        """As a supervisor."""
        if self.error is not None:
            raise self.error
        found = changes(self.desired.config, loaded.config)
        if found:
            self.desired.take(loaded)
        else:
            self.desired.take_same(loaded)
        self.taken += 1
        return reloads.TakenOver(found)

    async def tell_engine(self) -> Sequence[str]:
        """Count."""
        self.told += 1
        return ()

    @property
    def states(self) -> dict[str, BackendState]:
        """Backend name → state."""
        return {one.name: one.state for one in self.desired.backends if one is not None}


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look without pause, and take every file for older than a tick of the clock."""
    monkeypatch.setattr(file_watch, "INTERVAL_S", 0.001)
    monkeypatch.setattr(time, "time_ns", lambda: 1 << 62)
    monkeypatch.setattr(reloads, "MIN_RETRY_S", 0.0)
    monkeypatch.setattr(reloads, "DUTY", 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A configuration."""
    file = tmp_path / "qlb.yaml"
    file.write_text(TEXT)
    return file


@asynccontextmanager
async def _following(path: Path) -> AsyncIterator[tuple[Daemon, Reloads]]:
    daemon = Daemon(path)
    found = Reloads(path, daemon)
    async with asyncio.timeout(LIMIT_S):
        following = asyncio.create_task(found.follow())
        try:
            yield daemon, found
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await found.stop()


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def _refusals(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "reload refused" in record.getMessage()]


async def test_a_removal_waits_and_is_tried_again(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Refused and logged once; the backend drains meanwhile; taken over when packets have been quiet."""
    caplog.set_level(logging.INFO)
    async with _following(path) as (daemon, found):
        daemon.against = [B_IS_BUSY._replace(wait_s=0.0)]
        path.write_text(WITHOUT_B)
        await _until(lambda: daemon.attempts > 5)
        assert len(_refusals(caplog)) == 1
        assert daemon.states == {"a": "active", "b": "draining"}
        assert daemon.desired.leaving == {"b"}
        assert daemon.told == 1
        assert found.problems == (B_IS_BUSY.text,)
        daemon.against = ()
        await _until(lambda: daemon.taken == 1)
        assert daemon.states == {"a": "active"}
        assert (found.problems, found.retry_s, daemon.desired.leaving) == ((), None, frozenset())


async def test_the_next_try_waits_for_the_quiet_period(path: Path) -> None:
    """As long as the packets in the way say, and no longer."""
    async with _following(path) as (daemon, found):
        daemon.against = [B_IS_BUSY, B_IS_BUSY._replace(wait_s=7.0)]
        path.write_text(WITHOUT_B)
        await _until(lambda: bool(found.problems))
        assert found.retry_s is not None
        assert 0 < found.retry_s <= 59.0
        attempts = daemon.attempts
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert daemon.attempts == attempts


async def test_a_backend_that_is_taken_back_in_drains_no_more(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The configuration is what is in force again."""
    caplog.set_level(logging.INFO)
    async with _following(path) as (daemon, _):
        daemon.against = [B_IS_BUSY]
        path.write_text(WITHOUT_B)
        await _until(lambda: daemon.states["b"] == "draining")
        path.write_text(TEXT)
        await _until(lambda: daemon.taken == 1)
        assert daemon.states == {"a": "active", "b": "active"}
        assert "backend no longer drains for a reload" in caplog.text


async def test_a_wrong_file_leaves_what_drains(path: Path) -> None:
    """Half of a change says nothing of the backend."""
    async with _following(path) as (daemon, found):
        daemon.against = [B_IS_BUSY]
        path.write_text(WITHOUT_B)
        await _until(lambda: daemon.states["b"] == "draining")
        path.write_text("listen: [")
        await _until(lambda: "not valid YAML" in "".join(found.problems))
        assert daemon.states["b"] == "draining"
        assert found.retry_s is None


async def test_the_last_backends_do_not_drain(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """New clients would have nowhere to go."""
    async with _following(path) as (daemon, _):
        daemon.against = [B_IS_BUSY, B_IS_BUSY._replace(about="backend a", backend="a")]
        path.write_text(TEXT.replace("name: a", "name: c").replace("name: b", "name: d"))
        await _until(lambda: daemon.told == 1)
        assert daemon.states == {"a": "active", "b": "active"}
        assert "no other backend does" in caplog.text


async def test_a_missing_key_file_that_appears(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Only the refused configuration names it, and it lies in another folder."""
    keys = path.parent / "keys"
    async with _following(path) as (daemon, found):
        path.write_text(TEXT + "fallback: {hash_key_file: keys/h.hex}\n")
        await _until(lambda: "h.hex" in "".join(found.problems))
        keys.mkdir()
        (keys / "h.hex").touch(mode=0o600)
        await _until(lambda: "is empty" in "".join(found.problems))
        (keys / "h.hex").write_text("00" * 16)
        await _until(lambda: daemon.taken == 1)
        assert len(_refusals(caplog)) == 2, "one for each reason"


async def test_a_key_file_whose_mode_is_mended(path: Path) -> None:
    """Chmod changes neither size nor time of modification."""
    key = path.with_name("h.hex")
    key.write_text("00" * 16)
    key.chmod(0o644)
    async with _following(path) as (daemon, found):
        path.write_text(TEXT + "fallback: {hash_key_file: h.hex}\n")
        await _until(lambda: "open to everybody" in "".join(found.problems))
        key.chmod(0o600)
        await _until(lambda: daemon.taken == 1)


async def test_what_this_machine_cannot_run_is_tried_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file changes when the reason goes."""
    monkeypatch.setattr(reloads, "MACHINE_RETRY_S", 0.0)
    async with _following(path) as (daemon, _):
        daemon.error = QlbError("no room")
        path.write_text(WITHOUT_B)
        await _until(lambda: daemon.attempts > 3)
        daemon.error = None
        await _until(lambda: daemon.taken == 1)


async def test_without_reload_on_change_a_refusal_is_an_answer(path: Path) -> None:
    """Nothing is tried again, and nothing drains."""
    path.write_text(TEXT.replace("reload_on_change: true", ""))
    async with _following(path) as (daemon, found):
        daemon.against = [B_IS_BUSY._replace(wait_s=0.0)]
        path.write_text(WITHOUT_B.replace("reload_on_change: true", ""))
        outcome = await found.request(force=False)
        assert (outcome.ok, outcome.unsafe, outcome.problems) == (False, True, (B_IS_BUSY.text,))
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert (daemon.attempts, found.retry_s, daemon.desired.leaving) == (1, None, frozenset())
        assert (await found.request(force=True)).ok
        assert daemon.attempts == 1, "who forces a reload is asked nothing"


async def test_operators_are_answered_and_logged_each_time(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What was asked for by hand is no repetition."""
    async with _following(path) as (_, found):
        path.write_text("listen: [")
        for number in range(1, 4):
            assert not (await found.request(force=False)).ok
            assert len(_refusals(caplog)) == number


async def test_no_change_is_said(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By the answer and the log; the generation counts on."""
    caplog.set_level(logging.INFO)
    async with _following(path) as (daemon, found):
        outcome = await found.request(force=False)
        assert (outcome.ok, outcome.unchanged, outcome.changes, outcome.generation) == (True, True, (), 2)
        assert caplog.records[-1].__dict__["changes"] == "no changes"
        path.write_text(WITHOUT_B)
        daemon.gate.set()
        outcome = await found.request(force=False)
        assert (outcome.unchanged, outcome.changes) == (False, ("- backend b",))


async def test_two_thousand_signals_are_two_reloads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first at once, the others together when they pause."""
    monkeypatch.setattr(reloads, "CALM_S", 3600.0)
    async with _following(path) as (daemon, found):
        found.signal()
        await _until(lambda: daemon.taken == 1)
        monkeypatch.setattr(reloads, "CALM_S", 0.05)
        for _ in range(2000):
            found.signal()
        await _until(lambda: daemon.taken == 2)
        await asyncio.sleep(0)
        assert daemon.attempts == 2


async def test_signals_that_never_pause(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are obeyed all the same."""
    monkeypatch.setattr(reloads, "CALM_S", 0.01)
    monkeypatch.setattr(reloads, "MAX_STORM_S", 0.05)
    async with _following(path) as (daemon, found):
        while daemon.taken < 3:
            found.signal()
            await asyncio.sleep(0)


async def test_concurrent_requests_share_a_reload(path: Path) -> None:
    """Each gets the outcome of one that began after it had asked."""
    async with _following(path) as (daemon, found):
        daemon.gate.clear()
        first = [asyncio.create_task(found.request(force=False)) for _ in range(50)]
        await _until(lambda: daemon.attempts == 1)
        second = [asyncio.create_task(found.request(force=False)) for _ in range(50)]
        await asyncio.sleep(0)
        daemon.gate.set()
        assert {one.generation for one in await asyncio.gather(*first)} == {2}
        assert {one.generation for one in await asyncio.gather(*second)} == {3}


async def test_a_change_that_a_request_has_read_is_read_once(path: Path) -> None:
    """Watching the files and a request by hand do not reload twice."""
    async with _following(path) as (daemon, found):
        path.write_text(WITHOUT_B)
        assert (await found.request(force=False)).ok
        attempts = daemon.attempts
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert daemon.attempts == attempts


async def test_nothing_is_reloaded_during_an_upgrade(path: Path) -> None:
    """The answer says why."""
    async with _following(path) as (daemon, found):
        daemon.why = "an upgrade is under way"
        outcome = await found.request(force=False)
        assert outcome.problems == ("an upgrade is under way",)
        assert found.problems == ()
        path.write_text(WITHOUT_B)
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert daemon.attempts == 0
