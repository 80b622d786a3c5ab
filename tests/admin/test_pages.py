"""The pages that any client may read, requested over real listeners."""

import json

import pytest
from prometheus_client.parser import text_string_to_metric_families

from qlb.observe.status import build_status
from tests.admin.conftest import Stage

BOTH = pytest.mark.parametrize("control", [False, True], ids=["tcp", "unix"])


@BOTH
async def test_healthz(stage: Stage, control: bool) -> None:
    """/healthz returns 200 while the process serves, whatever the state of the backends."""
    stage.daemon.ready = False
    answer = await stage.ask("GET", "/healthz", control=control)
    assert (answer.status, answer.text) == (200, "ok\n")


@BOTH
async def test_status(stage: Stage, control: bool) -> None:
    """/status returns the status of the reading as JSON."""
    answer = await stage.ask("GET", "/status?pretty=1", control=control)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("application/json")
    assert json.loads(answer.body) == json.loads(json.dumps(build_status(stage.daemon.reading)))


@BOTH
async def test_metrics(stage: Stage, control: bool) -> None:
    """/metrics returns the format that the Accept headers request."""
    answer = await stage.ask("GET", "/metrics", control=control)
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "qlb_packets_received" in [family.name for family in text_string_to_metric_families(answer.text)]
    wish = "Accept: application/openmetrics-text; version=1.0.0"
    answer = await stage.ask("GET", "/metrics", wish, "Accept: */*;q=0.1", control=control)
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")


async def test_ready(stage: Stage) -> None:
    """/readyz returns 200 and the number of healthy backends."""
    answer = await stage.ask("GET", "/readyz")
    assert (answer.status, answer.text) == (200, "ready: 1 of 2 backends are healthy\n")


async def test_not_ready_while_starting_or_stopping(stage: Stage) -> None:
    """While the daemon starts or stops, /readyz returns 503 even if backends are healthy."""
    stage.daemon.ready = False
    answer = await stage.ask("GET", "/readyz")
    assert (answer.status, answer.text) == (503, "not ready: starting or stopping, or no worker forwards\n")


async def test_not_ready_without_a_healthy_backend(stage: Stage) -> None:
    """/readyz returns 503 if no backend is healthy. Removed backends do not count."""
    stage.daemon.ready = False
    stage.daemon.set(backends=stage.daemon.reading.backends[1:])
    answer = await stage.ask("GET", "/readyz")
    assert (answer.status, answer.text) == (503, "not ready: the backend is not healthy\n")


async def test_not_ready_without_backends(stage: Stage) -> None:
    """/readyz returns 503 and a reason if no backends are configured."""
    stage.daemon.ready = False
    stage.daemon.set(backends=())
    answer = await stage.ask("GET", "/readyz")
    assert (answer.status, answer.text) == (503, "not ready: no backends are configured\n")


@pytest.mark.parametrize("target", ["/", "/status", "/metrics", "/healthz", "/readyz"])
async def test_head_is_get_without_the_body(stage: Stage, target: str) -> None:
    """HEAD returns the same status and headers as GET, without a body."""
    head, get = await stage.ask("HEAD", target), await stage.ask("GET", target)
    assert (head.status, head.body) == (200, b"")
    assert head.headers.keys() == get.headers.keys()
    assert head.headers["content-type"] == get.headers["content-type"]
    assert get.body


@pytest.mark.parametrize("target", ["/", "/status", "/metrics", "/healthz", "/readyz", "/nothing"])
async def test_every_answer_is_guarded(stage: Stage, target: str) -> None:
    """Every response hides the server's version and forbids caching, framing, type guessing and other origins."""
    answer = await stage.ask("GET", target, "Origin: https://evil.example")
    headers = answer.headers
    assert headers["server"] == "qlb"
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert not [name for name in headers if name.startswith("access-control")]
