"""Reloads: many requests share few, and a refused one is tried again only when its reason may be gone."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from qlb.config.load import Loaded, load
from qlb.daemon import files
from qlb.daemon import reload_requests as reloads
from qlb.daemon.desired import Desired
from qlb.daemon.guard import Objection
from qlb.daemon.reload import Configuration
from qlb.daemon.reload_requests import Reloads
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
    """A fake daemon that is reloaded: it applies a configuration if the test has set no objection."""

    def __init__(self, path: Path) -> None:
        """Load the configuration at a path and let it be in force."""
        self.desired = Desired(load(path))
        self.against: Sequence[Objection] = ()
        self.no_reload = ""
        self.notified = 0
        self.attempts = 0
        self.applied = 0
        self.error: QlbError | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def objections(self, loaded: Loaded) -> Sequence[Objection]:
        """Return the objections that the test has set, if their backends are not in the new configuration."""
        self.attempts += 1
        await self.gate.wait()
        names = {backend.name for backend in loaded.config.backends}
        return [one for one in self.against if one.backend not in names]

    async def put_in_force(self, configuration: Configuration) -> Sequence[str]:
        """Apply the configuration, or raise the error that the test has set."""
        if self.error is not None:
            raise self.error
        self.desired.configure(configuration.loaded, is_same=not configuration.changes)
        self.applied += 1
        return ()

    async def drain_for_reload(self, names: frozenset[str]) -> None:
        """Drain the backends, and count the calls."""
        self.desired.drain_for(names)
        self.notified += 1

    @property
    def states(self) -> dict[str, BackendState]:
        """Return backend name → state."""
        return {one.name: one.state for one in self.desired.backends if one is not None}


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the files without a pause, and make every file older than a tick of the clock."""
    monkeypatch.setattr(files, "INTERVAL_S", 0.001)
    monkeypatch.setattr(time, "time_ns", lambda: 1 << 62)
    monkeypatch.setattr(reloads, "MIN_RETRY_S", 0.0)
    monkeypatch.setattr(reloads, "DUTY", 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Write a configuration and return its path."""
    file = tmp_path / "qlb.yaml"
    file.write_text(TEXT)
    return file


@asynccontextmanager
async def _following(path: Path) -> AsyncIterator[tuple[Daemon, Reloads]]:
    daemon = Daemon(path)
    found = Reloads(path, daemon, daemon.objections)
    async with asyncio.timeout(LIMIT_S):
        found.start()
        try:
            yield daemon, found
        finally:
            await found.stop()


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def _refusals(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "reload refused" in record.getMessage()]


async def test_a_removal_waits_and_is_tried_again(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A refused removal is logged once, and the backend drains. When its packets stop, the reload is applied."""
    caplog.set_level(logging.INFO)
    async with _following(path) as (daemon, found):
        daemon.against = [B_IS_BUSY._replace(wait_s=0.0)]
        path.write_text(WITHOUT_B)
        await _until(lambda: daemon.attempts > 5)
        assert len(_refusals(caplog)) == 1
        assert daemon.states == {"a": "active", "b": "draining"}
        assert daemon.desired.leaving == {"b"}
        assert daemon.notified == 1
        assert found.problems == (B_IS_BUSY.text,)
        daemon.against = ()
        await _until(lambda: daemon.applied == 1)
        assert daemon.states == {"a": "active"}
        assert (found.problems, found.retry_s, daemon.desired.leaving) == ((), None, frozenset())


async def test_the_next_try_waits_for_the_quiet_period(path: Path) -> None:
    """The next try comes when the objections expire, and not before."""
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


async def test_a_backend_that_returns_does_not_drain(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If the file lists the backend again, the drain for the reload ends."""
    caplog.set_level(logging.INFO)
    async with _following(path) as (daemon, _):
        daemon.against = [B_IS_BUSY]
        path.write_text(WITHOUT_B)
        await _until(lambda: daemon.states["b"] == "draining")
        path.write_text(TEXT)
        await _until(lambda: daemon.applied == 1)
        assert daemon.states == {"a": "active", "b": "active"}
        assert "backend no longer drains for a reload" in caplog.text


async def test_an_invalid_file_does_not_end_a_drain(path: Path) -> None:
    """A file with a syntax error does not end the drain, because it does not show what the operator wants."""
    async with _following(path) as (daemon, found):
        daemon.against = [B_IS_BUSY]
        path.write_text(WITHOUT_B)
        await _until(lambda: daemon.states["b"] == "draining")
        path.write_text("listen: [")
        await _until(lambda: "not valid YAML" in "".join(found.problems))
        assert daemon.states["b"] == "draining"
        assert found.retry_s is None


async def test_the_last_backends_do_not_drain(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If no other backend could get new clients, the removed backends do not drain."""
    async with _following(path) as (daemon, _):
        daemon.against = [B_IS_BUSY, B_IS_BUSY._replace(about="backend a", backend="a")]
        path.write_text(TEXT.replace("name: a", "name: c").replace("name: b", "name: d"))
        await _until(lambda: daemon.notified == 1)
        assert daemon.states == {"a": "active", "b": "active"}
        assert "no other backend does" in caplog.text


async def test_a_missing_key_file_that_appears(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A missing key file that only the refused configuration names is watched, even in a new folder."""
    keys = path.parent / "keys"
    async with _following(path) as (daemon, found):
        path.write_text(TEXT + "fallback: {hash_key_file: keys/h.hex}\n")
        await _until(lambda: "h.hex" in "".join(found.problems))
        keys.mkdir()
        (keys / "h.hex").touch(mode=0o600)
        await _until(lambda: "is empty" in "".join(found.problems))
        (keys / "h.hex").write_text("00" * 16)
        await _until(lambda: daemon.applied == 1)
        assert len(_refusals(caplog)) == 2, "there is not one log line for each reason"


async def test_a_key_file_whose_mode_is_corrected(path: Path) -> None:
    """A corrected mode of a key file is found, although it changes neither size nor modification time."""
    key = path.with_name("h.hex")
    key.write_text("00" * 16)
    key.chmod(0o644)
    async with _following(path) as (daemon, found):
        path.write_text(TEXT + "fallback: {hash_key_file: h.hex}\n")
        await _until(lambda: "accessible to every user" in "".join(found.problems))
        key.chmod(0o600)
        await _until(lambda: daemon.applied == 1)


async def test_a_problem_of_this_machine_is_tried_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reload that this machine could not apply is tried again, although no file changes."""
    monkeypatch.setattr(reloads, "MACHINE_RETRY_S", 0.0)
    async with _following(path) as (daemon, _):
        daemon.error = QlbError("no room")
        path.write_text(WITHOUT_B)
        await _until(lambda: daemon.attempts > 3)
        daemon.error = None
        await _until(lambda: daemon.applied == 1)


async def test_without_reload_on_change_a_refusal_is_an_answer(path: Path) -> None:
    """Without reload_on_change, a refused reload is not tried again, and no backend drains."""
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
        assert daemon.attempts == 1, "a forced reload was checked for objections"


async def test_operators_are_answered_and_logged_each_time(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Every refused request of an operator is answered and logged, even with the same reason."""
    async with _following(path) as (_, found):
        path.write_text("listen: [")
        for number in range(1, 4):
            assert not (await found.request(force=False)).ok
            assert len(_refusals(caplog)) == number


async def test_a_reload_without_changes_is_reported(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A reload without changes is reported in the answer and in the log, and the generation stays."""
    caplog.set_level(logging.INFO)
    async with _following(path) as (daemon, found):
        outcome = await found.request(force=False)
        assert (outcome.ok, outcome.unchanged, outcome.changes, outcome.generation) == (True, True, (), 1)
        assert caplog.records[-1].__dict__["changes"] == "no changes"
        path.write_text(WITHOUT_B)
        daemon.gate.set()
        outcome = await found.request(force=False)
        assert (outcome.unchanged, outcome.changes) == (False, ("- backend b",))


async def test_two_thousand_signals_are_two_reloads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first signal reloads at once. The following 2,000 share one reload, which starts when they pause."""
    monkeypatch.setattr(reloads, "CALM_S", 3600.0)
    async with _following(path) as (daemon, found):
        found.signal()
        await _until(lambda: daemon.applied == 1)
        monkeypatch.setattr(reloads, "CALM_S", 0.05)
        for _ in range(2000):
            found.signal()
        await _until(lambda: daemon.applied == 2)
        await asyncio.sleep(0)
        assert daemon.attempts == 2


async def test_signals_that_never_pause(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signals that never pause still lead to reloads."""
    monkeypatch.setattr(reloads, "CALM_S", 0.01)
    monkeypatch.setattr(reloads, "MAX_STORM_S", 0.05)
    async with _following(path) as (daemon, found):
        while daemon.applied < 3:
            found.signal()
            await asyncio.sleep(0)


async def test_concurrent_requests_share_a_reload(path: Path) -> None:
    """Each request gets the outcome of a reload that began after it."""
    async with _following(path) as (daemon, found):
        daemon.gate.clear()
        first = [asyncio.create_task(found.request(force=False)) for _ in range(50)]
        await _until(lambda: daemon.attempts == 1)
        second = [asyncio.create_task(found.request(force=False)) for _ in range(50)]
        await asyncio.sleep(0)
        daemon.gate.set()
        (early,) = {id(one): one for one in await asyncio.gather(*first)}.values()
        (late,) = {id(one): one for one in await asyncio.gather(*second)}.values()
        assert early is not late
        assert daemon.attempts == 2


async def test_a_change_that_a_request_has_read_is_read_once(path: Path) -> None:
    """A change that a request has read is not read again by the watch for changed files."""
    async with _following(path) as (daemon, found):
        path.write_text(WITHOUT_B)
        assert (await found.request(force=False)).ok
        attempts = daemon.attempts
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert daemon.attempts == attempts


async def test_nothing_is_reloaded_during_an_upgrade(path: Path) -> None:
    """During an upgrade a request is refused with the reason, and a changed file is ignored."""
    async with _following(path) as (daemon, found):
        daemon.no_reload = "an upgrade is under way"
        outcome = await found.request(force=False)
        assert outcome.problems == ("an upgrade is under way",)
        assert found.problems == ()
        path.write_text(WITHOUT_B)
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert daemon.attempts == 0
