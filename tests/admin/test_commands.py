"""The commands of the control socket."""

import json
from typing import Any

import pytest

from qlb.admin import Incomplete, ReloadOutcome, UpgradeOutcome
from qlb.admin import pages as cache
from qlb.errors import ConfigError, QlbError
from tests.admin.conftest import Stage


async def post(stage: Stage, target: str) -> tuple[int, Any]:
    """POST to the control socket. Return the status code and the decoded JSON."""
    answer = await stage.ask("POST", target, "Content-Length: 0", control=True)
    assert answer.headers["content-type"].startswith("application/json")
    return answer.status, json.loads(answer.body)


async def test_reload(stage: Stage) -> None:
    """A reload returns the generation that is in force and the warnings."""
    body = {"ok": True, "generation": 4, "problems": [], "warnings": ["a warning"], "unsafe": False, "changes": []}
    body |= {"incomplete": False, "unchanged": False}
    assert await post(stage, "/reload") == (200, body)
    assert await post(stage, "/reload/force") == (200, body)
    assert stage.daemon.calls == ["reload", "reload by force"]


async def test_reload_refused(stage: Stage) -> None:
    """A refused reload returns every problem and the generation that stays in force."""
    problems = ("x.yaml:1:1: bad", "x.yaml:2:1: worse")
    stage.daemon.outcome = ReloadOutcome(ok=False, generation=3, problems=problems)
    code, body = await post(stage, "/reload")
    assert (code, body["ok"], body["generation"], body["problems"]) == (422, False, 3, list(problems))


async def test_reload_that_is_unsafe(stage: Stage) -> None:
    """A reload that would break connections gets 409, not the 422 of a wrong file: it can be forced."""
    stage.daemon.outcome = ReloadOutcome(ok=False, generation=3, problems=("b still gets packets",), unsafe=True)
    code, body = await post(stage, "/reload")
    assert (code, body["unsafe"], body["problems"]) == (409, True, ["b still gets packets"])


async def test_reload_that_a_worker_has_not_applied(stage: Stage) -> None:
    """A reload that a worker has not applied yet gets 503: it is in force, but not in every worker."""
    stage.daemon.outcome = ReloadOutcome(ok=False, generation=5, problems=("worker 1 is behind",), incomplete=True)
    code, body = await post(stage, "/reload")
    assert (code, body["ok"], body["incomplete"], body["problems"]) == (503, False, True, ["worker 1 is behind"])


async def test_drain_that_a_worker_has_not_applied(stage: Stage) -> None:
    """The response is 503 and names the worker that is behind."""
    stage.daemon.error = Incomplete("worker 1 is behind")
    assert (await post(stage, "/drain/a"))[0] == 503
    assert (await post(stage, "/undrain/a"))[1]["error"] == "worker 1 is behind"


@pytest.mark.parametrize(
    ("error", "problems"),
    [(ConfigError("x:1:1: a", "x:2:1: b"), ["x:1:1: a", "x:2:1: b"]), (QlbError("too many names"), ["too many names"])],
)
@pytest.mark.parametrize("target", ["/reload", "/drain/a"])
async def test_errors_of_the_daemon(stage: Stage, error: QlbError, problems: list[str], target: str) -> None:
    """A QlbError becomes a 422 response with its problems, not a server error."""
    stage.daemon.error = error
    assert await post(stage, target) == (422, {"ok": False, "error": str(error), "problems": problems})


async def test_the_configuration(stage: Stage) -> None:
    """The daemon returns the configuration in force, with the keys of the file or with all keys."""
    assert await post(stage, "/config") == (200, {"generation": 4, "config": {"listen": []}})
    assert (await post(stage, "/config/effective"))[0] == 200
    assert stage.daemon.calls == ["config", "all of config"]


async def test_drain_and_undrain(stage: Stage) -> None:
    """The response contains the backend's new state."""
    assert await post(stage, "/drain/a") == (200, {"ok": True, "backend": "a", "state": "draining"})
    assert await post(stage, "/undrain/a") == (200, {"ok": True, "backend": "a", "state": "active"})
    assert stage.daemon.calls == ["drain a", "undrain a"]


async def test_unknown_backend(stage: Stage) -> None:
    """The response lists the known names. The removed backend in the reading is not one of them."""
    assert await post(stage, "/drain/z") == (
        404,
        {"ok": False, "error": "no backend 'z'; known backends: a, b:2", "backends": ["a", "b:2"]},
    )
    stage.daemon.set(backends=())
    status, answer = await post(stage, "/undrain/z")
    assert (status, answer["error"]) == (404, "no backend 'z'; known backends: none")


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
    """A percent-encoded name is decoded once. An odd name is only an unknown backend."""
    status, _ = await post(stage, f"/drain/{encoded}")
    assert status == (200 if name == "b:2" else 404)
    assert stage.daemon.calls == [f"drain {name}"]


async def test_upgrade(stage: Stage) -> None:
    """The response contains the process ID of the process that now serves."""
    assert await post(stage, "/upgrade") == (200, {"ok": True, "pid": 12, "problems": [], "warnings": []})
    assert stage.daemon.calls == ["upgrade"]


async def test_upgrade_refused(stage: Stage) -> None:
    """The response contains the reason, and the old process continues."""
    stage.daemon.upgrade_outcome = UpgradeOutcome(ok=False, pid=11, problems=("no",))
    assert await post(stage, "/upgrade") == (422, {"ok": False, "pid": 11, "problems": ["no"], "warnings": []})


async def test_the_next_page_shows_the_effect_of_a_command(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a command, the next page is rendered anew, however recent the cached page is."""
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
