"""What the control socket can be told."""

import json
from typing import Any

import pytest

from qlb.admin import Incomplete, ReloadOutcome, UpgradeOutcome
from qlb.admin import pages as cache
from qlb.errors import ConfigError, QlbError
from tests.admin.conftest import Stage


async def post(stage: Stage, target: str) -> tuple[int, Any]:
    """POST to the control socket; return (status, decoded JSON)."""
    answer = await stage.ask("POST", target, "Content-Length: 0", control=True)
    assert answer.headers["content-type"].startswith("application/json")
    return answer.status, json.loads(answer.body)


async def test_reload(stage: Stage) -> None:
    """It says which generation is in force, and what to look at."""
    told = {"ok": True, "generation": 4, "problems": [], "warnings": ["a warning"], "unsafe": False, "changes": []}
    told |= {"incomplete": False, "unchanged": False}
    assert await post(stage, "/reload") == (200, told)
    assert await post(stage, "/reload/force") == (200, told)
    assert stage.daemon.calls == ["reload", "reload by force"]


async def test_reload_refused(stage: Stage) -> None:
    """Every problem is told, and the generation that goes on serving."""
    problems = ("x.yaml:1:1: bad", "x.yaml:2:1: worse")
    stage.daemon.outcome = ReloadOutcome(ok=False, generation=3, problems=problems)
    code, told = await post(stage, "/reload")
    assert (code, told["ok"], told["generation"], told["problems"]) == (422, False, 3, list(problems))


async def test_reload_that_is_unsafe(stage: Stage) -> None:
    """Another code than for a file that is wrong: this one can be forced."""
    stage.daemon.outcome = ReloadOutcome(ok=False, generation=3, problems=("b still gets packets",), unsafe=True)
    code, told = await post(stage, "/reload")
    assert (code, told["unsafe"], told["problems"]) == (409, True, ["b still gets packets"])


async def test_reload_that_a_worker_has_not_applied(stage: Stage) -> None:
    """It is in force, but not everywhere: neither done nor refused."""
    stage.daemon.outcome = ReloadOutcome(ok=False, generation=5, problems=("worker 1 is behind",), incomplete=True)
    code, told = await post(stage, "/reload")
    assert (code, told["ok"], told["incomplete"], told["problems"]) == (503, False, True, ["worker 1 is behind"])


async def test_drain_that_a_worker_has_not_applied(stage: Stage) -> None:
    """The answer is no success, and says which worker is behind."""
    stage.daemon.error = Incomplete("worker 1 is behind")
    assert (await post(stage, "/drain/a"))[0] == 503
    assert (await post(stage, "/undrain/a"))[1]["error"] == "worker 1 is behind"


@pytest.mark.parametrize(
    ("error", "problems"),
    [(ConfigError("x:1:1: a", "x:2:1: b"), ["x:1:1: a", "x:2:1: b"]), (QlbError("too many names"), ["too many names"])],
)
@pytest.mark.parametrize("target", ["/reload", "/drain/a"])
async def test_what_the_daemon_refuses(stage: Stage, error: QlbError, problems: list[str], target: str) -> None:
    """An error of ours is an answer, not a fault of the server."""
    stage.daemon.error = error
    assert await post(stage, target) == (422, {"ok": False, "error": str(error), "problems": problems})


async def test_drain_and_undrain(stage: Stage) -> None:
    """The answer says what the backend is now."""
    assert await post(stage, "/drain/a") == (200, {"ok": True, "backend": "a", "state": "draining"})
    assert await post(stage, "/undrain/a") == (200, {"ok": True, "backend": "a", "state": "active"})
    assert stage.daemon.calls == ["drain a", "undrain a"]


async def test_unknown_backend(stage: Stage) -> None:
    """The answer lists the names that there are; one that has left is none of them."""
    assert await post(stage, "/drain/z") == (
        404,
        {"ok": False, "error": "no backend 'z'; there is: a, b:2", "backends": ["a", "b:2"]},
    )
    stage.daemon.set(backends=())
    status, answer = await post(stage, "/undrain/z")
    assert (status, answer["error"]) == (404, "no backend 'z'; there is: none")


@pytest.mark.parametrize(
    ("encoded", "name"),
    [
        ("b%3A2", "b:2"),
        ("b:2", "b:2"),
        ("a%2Fb", "a/b"),
        ("..", ".."),
        (".", "."),
        ("%2e%2e", ".."),
        ("", ""),
        ("%00", "\0"),
        ("%C3%A9", "é"),
        ("%FF", "\ufffd"),
        ("100%", "100%"),
        ("a+b", "a+b"),
        ("a%3Fb%23c", "a?b#c"),
        ("%253A", "%3A"),
    ],
)
async def test_names_are_decoded_once(stage: Stage, encoded: str, name: str) -> None:
    """The daemon gets the very name, and a strange one is just unknown."""
    status, _ = await post(stage, f"/drain/{encoded}")
    assert status == (200 if name == "b:2" else 404)
    assert stage.daemon.calls == [f"drain {name}"]


async def test_upgrade(stage: Stage) -> None:
    """The answer is the daemon's, and tells who serves now."""
    assert await post(stage, "/upgrade") == (200, {"ok": True, "pid": 12, "problems": [], "warnings": []})
    assert stage.daemon.calls == ["upgrade"]


async def test_upgrade_refused(stage: Stage) -> None:
    """Nothing has changed, and the answer says why."""
    stage.daemon.upgrade_outcome = UpgradeOutcome(ok=False, pid=11, problems=("no",))
    assert await post(stage, "/upgrade") == (422, {"ok": False, "pid": 11, "problems": ["no"], "warnings": []})


async def test_the_next_look_shows_what_a_command_has_changed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """However recent the page is that was rendered before."""
    monkeypatch.setattr(cache, "_AGE_S", 3600.0)
    monkeypatch.setattr(cache, "_BURST_S", 0.0)

    async def generations() -> list[int]:
        pages = [await stage.ask("GET", "/status", control=control) for control in (False, True)]
        return [json.loads(page.body)["config"]["generation"] for page in pages]

    assert await generations() == [3, 3]
    stage.daemon.set(generation=4)
    assert await generations() == [3, 3]
    await post(stage, "/reload")
    assert await generations() == [4, 4]
