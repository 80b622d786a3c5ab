"""Tests of the shipped voice demo."""

from aiohttp import ClientSession

from examples.voice_agent.__main__ import CONFIG
from examples.voice_agent.network import Network
from examples.voice_agent.web import PAGE, serving_page
from lab.nat import Nat
from qlb.config.load import load
from qlb.demo.backends import id_source, issued, served_here

ELSEWHERE = ("http://", "https://", "//cdn", "@import")


def test_every_agent_of_the_configuration_can_issue_ids() -> None:
    """The configuration loads, and each backend has a server ID under an active CID config."""
    config = load(CONFIG).config
    assert all(id_source(backend, issued(config)) is not None for backend in served_here(config, None))


def test_the_page_loads_nothing_external() -> None:
    """The page contains no address of another host, except XML namespaces."""
    for path in PAGE.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert [part for part in ELSEWHERE if part in text] == [], path.name


async def test_the_page_reaches_the_nat() -> None:
    """The page gets the call URL and the certificate's hash, and can change addresses once or each second."""
    with Nat() as nat:
        network = Network(nat.port(("127.0.0.1", 1)))
        serving = serving_page("127.0.0.1", 0, call_url="https://x/voice", sha256=b"\x0f" * 32, network=network)
        async with serving as url, ClientSession(url) as session:
            assert await (await session.get("session")).json() == {"url": "https://x/voice", "sha256": "0f" * 32}
            for change, each_second in (("once", False), ("each-second", True), ("never", False)):
                answer = await session.post("network", params={"change": change})
                assert await answer.json() == {"outside": None, "changes": 0, "each_second": each_second}
            assert (await session.post("network", params={"change": "now"})).status == 400
            for name in ("", "page.css", "call.js", "page.js", "worklet.js"):
                found = await session.get(name)
                assert found.status == 200
                assert "default-src 'none'" in found.headers["Content-Security-Policy"]
