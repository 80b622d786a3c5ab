"""`qlb demo get`, and what `qlb demo` and `qlb run --demo-backends` need."""

import importlib.util
import re
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from lab.command_line import Run
from qlb.addresses import Endpoint
from qlb.cid import CidCodec
from qlb.cli import demo
from qlb.demo.backends import DemoBackend, serving
from qlb.errors import BackendError
from qlb.routing.backends import Backend
from tests.demo.conftest import PARAMS, Relay

TIMEOUT_S = 3.0


@pytest.fixture
async def backends() -> AsyncIterator[list[DemoBackend]]:
    """Run two backends. Their server IDs are ida and idb."""
    wanted = [Backend(f"agent-{letter}", Endpoint("127.0.0.1", 0), {1: (f"id{letter}".encode(),)}) for letter in "ab"]
    async with serving(wanted, [PARAMS]) as running:
        yield running


async def test_requests_from_more_addresses(backends: list[DemoBackend], capsys: pytest.CaptureFixture[str]) -> None:
    """Each answer is one line with the backend's name and another port of the client."""
    await demo._get("127.0.0.1", backends[0].endpoint.port, "/", 2, timeout_s=60.0)
    lines = [re.fullmatch(r"200 from agent-a, to port (\d+)", line) for line in capsys.readouterr().out.splitlines()]
    assert len({line[1] for line in lines if line}) == 3


async def test_a_lost_connection(backends: list[DemoBackend], monkeypatch: pytest.MonkeyPatch) -> None:
    """The error shows the command that explains where the server's connection ID leads."""
    monkeypatch.delenv("QLB_CONFIG", raising=False)
    seen: dict[tuple[str, int], int] = {}
    with (
        closing(Relay(lambda _, client: backends[seen.setdefault(client, len(seen)) % 2].endpoint)) as relay,
        pytest.raises(BackendError) as raised,
    ):
        await demo._get("127.0.0.1", relay.port, "/", 1, timeout_s=TIMEOUT_S)
    first, advice, command = str(raised.value).splitlines()
    assert first == f"no answer to a ping within {TIMEOUT_S:g} s"
    assert advice.startswith("The connection was lost after the client's address changed. The server's connection IDs")
    digits = 2 * PARAMS.cid_length
    match = re.fullmatch(rf"  .*\bqlb explain CONFIG 40([0-9a-f]{{{digits}}})(?:00){{24}}", command)
    assert match is not None, command
    assert CidCodec(PARAMS).decode(bytes.fromhex(match[1])) == b"ida"


def test_the_advice_with_a_known_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """With QLB_CONFIG, the command needs no CONFIG. A connection can also be lost without a change of address."""
    monkeypatch.setenv("QLB_CONFIG", "edge.yaml")
    advice = demo._advice(bytes(13), has_moved=False)
    assert "although its address is the same" in advice
    assert " explain 40" in advice


async def test_nothing_answers(taken_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    """The command tries three times, and the error names the address and what to look at."""
    with pytest.raises(BackendError, match=rf"at 127\.0\.0\.1 port {taken_port}: check that qlb listens there and .*"):
        await demo._get("127.0.0.1", taken_port, "/", 0, timeout_s=0.1)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("; ")[2] for line in lines] == ["trying again (2 of 3)", "trying again (3 of 3)"]


@pytest.fixture
async def taken_port() -> AsyncIterator[int]:
    """Return a port at which every packet is lost."""
    with closing(Relay(lambda *_: ("127.0.0.1", 9), drop_every=1)) as relay:
        yield relay.port


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("127.0.0.1:4433", ("127.0.0.1", 4433, "/")),
        ("https://127.0.0.1:4433/bytes/9", ("127.0.0.1", 4433, "/bytes/9")),
        ("[::1]:4433/a", ("::1", 4433, "/a")),
        ("localhost", ("localhost", 443, "/")),
    ],
)
def test_the_address(url: str, address: tuple[str, int, str], qlb: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """HOST:PORT alone uses the given port."""
    found: list[tuple[str, int, str]] = []

    async def get(host: str, port: int, path: str, rebinds: int) -> None:
        assert rebinds == 0
        found.append((host, port, path))

    monkeypatch.setattr(demo, "_get", get)
    assert qlb("demo", "get", url).code == 0
    assert found == [address]


@pytest.mark.parametrize("url", ["http://127.0.0.1:4433", "127.0.0.1:99999", "https://"])
def test_a_wrong_url(url: str, qlb: Run) -> None:
    """A wrong URL is an error of the command line."""
    assert qlb("demo", "get", url).code == 2


@pytest.mark.parametrize("words", [("demo", "get", "127.0.0.1:1"), ("demo", "{}"), ("run", "{}", "--demo-backends")])
def test_without_aioquic(words: tuple[str, ...], config: Path, qlb: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the aioquic extra, one line names it, before anything starts."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    result = qlb(*(word.format(config) for word in words))
    assert result.code == 1
    assert re.fullmatch(
        r"qlb: this command needs the aioquic extra: .* -m pip install 'qlb\[aioquic\]'\n", result.err
    ), result.err
