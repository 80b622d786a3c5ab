"""Kubernetes as a source of backends: slices are read, watched and read again, with every behaviour of the server."""

import asyncio
import ipaddress
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from lab.discovery.api_server import ENDING, NAMESPACE, QUIC, READY, SERVICE, UNREADY, ApiServer, api_server
from qlb.discovery import kubernetes
from qlb.discovery.kubernetes import KubernetesSettings, KubernetesSource
from qlb.discovery.source import Answer, DiscoveryError, Limits
from qlb.errors import ConfigError

NETWORKS: Final = tuple(map(ipaddress.ip_network, ("10.0.0.0/16", "2001:db8::/48")))
LIMITS: Final = Limits(networks=NETWORKS, find_own=lambda _: (), max_backends=1000)
RETRY_S: Final = 7.0
GENEROUS_S: Final = 2.0
LIMIT_S: Final = 240.0


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ApiServer]:
    """Yield a server with two slices."""
    async with asyncio.timeout(LIMIT_S), api_server(tmp_path) as running:
        await running.put("agents-a", {"10.0.0.2": READY, "10.0.0.1": READY})
        await running.put("agents-b", {"2001:db8:0::7": READY}, kind="IPv6")
        running.write_kubeconfig(tmp_path)
        yield running


def source(folder: Path, **changes: Any) -> KubernetesSource:
    """Return a source that uses the kubeconfig in a folder."""
    settings = KubernetesSettings(
        name="pods",
        namespace=NAMESPACE,
        service=SERVICE,
        port=0,
        port_name="",
        kubeconfig=folder / "kubeconfig",
        limits=LIMITS,
        weight=3,
        retry_s=RETRY_S,
    )
    return KubernetesSource(replace(settings, **changes))


def texts(answer: Answer) -> list[str]:
    """Return the texts of an answer's remarks."""
    return [remark.text for remark in answer.remarks]


async def endpoints(asked: KubernetesSource) -> list[str]:
    """Ask the source and return the endpoints of the backends."""
    return [str(backend.endpoint) for backend in (await asked.ask()).backends]


async def test_all_slices_are_one_pool(server: ApiServer, tmp_path: Path) -> None:
    """All slices of the Service make one pool in a fixed order. Slices of other Services are ignored."""
    await server.put("others", {"10.0.0.9": READY}, service="other")
    answer = await source(tmp_path).ask()
    assert [(one.name, str(one.endpoint), one.weight) for one in answer.backends] == [
        ("pods-10.0.0.1:4433", "10.0.0.1:4433", 3),
        ("pods-10.0.0.2:4433", "10.0.0.2:4433", 3),
        ("pods-2001:db8::7:4433", "[2001:db8::7]:4433", 3),
    ]
    assert (answer.again_s, answer.remarks) == (0, ())


async def test_the_api_server_is_reached_without_a_proxy(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source ignores the proxies of the environment, which would receive the account's token."""
    await server.put("agents-b", {})
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert await endpoints(source(tmp_path)) == ["10.0.0.1:4433", "10.0.0.2:4433"]


async def test_only_those_that_are_ready(server: ApiServer, tmp_path: Path) -> None:
    """Only ready endpoints are backends. One without a condition is ready; one that terminates is not."""
    await server.put("agents-a", {"10.0.0.1": UNREADY, "10.0.0.2": ENDING, "10.0.0.3": READY})
    await server.put("agents-b", {"10.0.0.4": None, "10.0.0.5": {}})
    assert await endpoints(source(tmp_path)) == ["10.0.0.3:4433", "10.0.0.4:4433", "10.0.0.5:4433"]


async def test_without_ready_endpoints(server: ApiServer, tmp_path: Path) -> None:
    """If no endpoint is ready, those that terminate but still serve are backends, as in kube-proxy."""
    await server.put("agents-a", {"10.0.0.1": UNREADY, "10.0.0.2": ENDING, "10.0.0.3": ENDING | {"serving": False}})
    await server.put("agents-b", {})
    assert await endpoints(source(tmp_path)) == ["10.0.0.2:4433"]
    await server.put("agents-a", {"10.0.0.1": UNREADY})
    assert await endpoints(source(tmp_path)) == []


@pytest.mark.parametrize(
    ("ports", "settings", "found", "remark"),
    [
        ([QUIC], {}, [4433], ""),
        ([QUIC, {"name": "http", "protocol": "TCP", "port": 80}, {"name": "x", "port": 81}], {}, [4433], ""),
        ([QUIC, QUIC | {"name": "moq", "port": 4434}], {"port_name": "moq"}, [4434], ""),
        ([QUIC, QUIC | {"name": "moq", "port": 4434}], {}, [], "2 UDP ports; set port_name to select one"),
        ([QUIC], {"port_name": "moq"}, [], "no UDP port 'moq'"),
        ([{"name": "http", "protocol": "TCP", "port": 80}], {}, [], "no UDP port"),
        ([QUIC | {"port": None}], {}, [], "no UDP port"),
        ([], {}, [], "no UDP port"),
        ([], {"port": 5}, [5], ""),
        ([QUIC], {"port": 5}, [5], ""),
    ],
)
async def test_ports(
    server: ApiServer,
    tmp_path: Path,
    ports: list[dict[str, Any]],
    settings: dict[str, Any],
    found: list[int],
    remark: str,
) -> None:
    """The port is the only UDP port, the one of port_name, or the configured one. A slice without it is omitted."""
    await server.delete("agents-b")
    await server.put("agents-a", {"10.0.0.1": READY}, ports=ports)
    answer = await source(tmp_path, **settings).ask()
    assert [one.endpoint.port for one in answer.backends] == found
    assert texts(answer)[:1] == ([f"EndpointSlice agents-a: {remark}"] if remark else [])
    assert [one.topic for one in answer.remarks] == (["port", "empty"] if remark else [])


async def test_nothing_outside_of_the_networks(server: ApiServer, tmp_path: Path) -> None:
    """Foreign addresses, host names, the balancer itself and more than max_backends backends are omitted."""
    odd = {"192.0.2.1": READY, "agent.example.com": READY, "": READY, "10.0.0.1": READY, "10.0.0.2": READY}
    await server.put("agents-a", odd)
    answer = await source(tmp_path, limits=replace(LIMITS, max_backends=2)).ask()
    assert [one.endpoint.host for one in answer.backends] == ["10.0.0.1", "10.0.0.2"]
    assert texts(answer) == [
        "192.0.2.1:4433 omitted: outside of `networks`, or no address of one host",
        "3 addresses, but max_backends allows 2: the others are omitted",
    ]
    own = replace(LIMITS, find_own=lambda found: {one for one in found if one.host == "10.0.0.1"})
    answer = await source(tmp_path, limits=own).ask()
    assert [one.endpoint.host for one in answer.backends] == ["10.0.0.2", "2001:db8::7"]
    assert "10.0.0.1:4433 omitted: this balancer itself: packets would loop" in texts(answer)


async def test_a_pod_with_both_families_is_one_backend(server: ApiServer, tmp_path: Path) -> None:
    """A pod with addresses in two slices is one backend. Packets go to IPv4 if it is within the networks."""
    pods = {"10.0.0.1": "one", "10.0.0.2": "two", "2001:db8::1": "one", "2001:db8::2": "two"}
    await server.put("agents-a", {"10.0.0.2": READY, "10.0.0.1": READY}, pods=pods)
    await server.put("agents-b", {"2001:db8::1": READY, "2001:db8::2": READY}, kind="IPv6", pods=pods)
    answer = await source(tmp_path).ask()
    assert [(str(one.endpoint), one.other_hosts) for one in answer.backends] == [
        ("10.0.0.1:4433", ("2001:db8::1",)),
        ("10.0.0.2:4433", ("2001:db8::2",)),
    ]
    assert answer.remarks == ()
    only_v6 = replace(LIMITS, networks=NETWORKS[1:])
    answer = await source(tmp_path, limits=only_v6).ask()
    assert [(str(one.endpoint), one.other_hosts) for one in answer.backends] == [
        ("[2001:db8::1]:4433", ()),
        ("[2001:db8::2]:4433", ()),
    ]
    await server.put("agents-a", {"10.0.0.2": UNREADY, "10.0.0.1": ENDING}, pods=pods)
    assert await endpoints(source(tmp_path)) == ["[2001:db8::1]:4433", "[2001:db8::2]:4433"]


async def test_two_ports_of_a_pod_are_two_backends(server: ApiServer, tmp_path: Path) -> None:
    """Two ports of one pod are two backends."""
    pods = {"10.0.0.1": "one", "10.0.0.2": "one"}
    await server.put("agents-a", {"10.0.0.1": READY}, pods=pods)
    await server.put("agents-b", {"10.0.0.1": READY}, ports=[QUIC | {"port": 4434}], pods=pods)
    assert await endpoints(source(tmp_path)) == ["10.0.0.1:4433", "10.0.0.1:4434"]


async def test_mapped_addresses_are_ipv4(server: ApiServer, tmp_path: Path) -> None:
    """An IPv4-mapped address is the same backend as the plain one."""
    await server.put("agents-a", {"10.0.0.1": READY})
    await server.put("agents-b", {"::ffff:10.0.0.1": READY, "::ffff:192.0.2.1": READY}, kind="IPv6")
    assert await endpoints(source(tmp_path)) == ["10.0.0.1:4433"]


async def test_no_backends_are_a_warning(server: ApiServer, tmp_path: Path) -> None:
    """The remark distinguishes a Service without slices, which may not exist, from one without ready endpoints."""
    (remark,) = (await source(tmp_path, service="agent").ask()).remarks
    assert tuple(remark) == (
        "empty",
        "no backends: Service voice/agent has no EndpointSlices: does the Service exist?",
    )
    await server.put("agents-a", {"10.0.0.1": UNREADY})
    await server.put("agents-b", {})
    (remark,) = (await source(tmp_path).ask()).remarks
    assert tuple(remark) == ("empty", "no backends: Service voice/agents has no ready endpoints")


@pytest.mark.slow
async def test_changes_are_watched(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next answer comes with a change and contains all changes of that time. Nothing is read again."""
    monkeypatch.setattr(kubernetes, "_SETTLE_S", GENEROUS_S)  # all changes must arrive, also on a busy machine
    asked = source(tmp_path)
    await asked.ask()
    waiting = asyncio.create_task(endpoints(asked))
    await server.until_watched()
    await server.put("agents-a", {"10.0.0.3": READY})
    await server.delete("agents-b")
    await server.put("agents-c", {"10.0.0.4": READY})
    assert await waiting == ["10.0.0.3:4433", "10.0.0.4:4433"]
    await server.put("agents-c", {"10.0.0.5": READY})
    assert await endpoints(asked) == ["10.0.0.3:4433", "10.0.0.5:4433"]
    assert server.asked == ["list", "watch", "watch"]


@pytest.mark.slow
async def test_nothing_changes(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a change, the answer is the same one. It shows that the server still answers."""
    monkeypatch.setattr(kubernetes, "_FOLLOW_S", GENEROUS_S)  # the request must arrive, also on a busy machine
    asked = source(tmp_path)
    assert await asked.ask() == await asked.ask()
    assert server.asked == ["list", "watch"]


async def test_missed_changes_are_read_again(server: ApiServer, tmp_path: Path) -> None:
    """If the server does not have the changes since the last version any more, all slices are read again."""
    asked = source(tmp_path)
    await asked.ask()
    await server.put("agents-a", {"10.0.0.8": READY})
    server.forget()
    answer = await asked.ask()
    assert [one.endpoint.host for one in answer.backends] == ["10.0.0.8", "2001:db8::7"]
    assert server.asked == ["list", "watch", "list"]


@pytest.mark.parametrize("mood", ["forbidden", "broken", "nonsense"])
async def test_without_watching_all_slices_are_read_every_retry_s(server: ApiServer, tmp_path: Path, mood: str) -> None:
    """If watching fails, the source reads all slices every retry_s. From the second failure on there is a remark."""
    server.mood["watch"] = mood
    asked = source(tmp_path)
    await asked.ask()
    await server.put("agents-a", {"10.0.0.8": READY})
    answer = await asked.ask()
    assert [one.endpoint.host for one in answer.backends] == ["10.0.0.8", "2001:db8::7"]
    assert (answer.again_s, answer.remarks) == (RETRY_S, ())
    (remark,) = (await asked.ask()).remarks
    assert remark.text.startswith("changes cannot be watched, so all slices are read again every 7 s: ")
    server.mood.clear()
    following = asyncio.create_task(asked.ask())
    await server.until_watched()
    await server.put("agents-a", {"10.0.0.9": READY})
    assert (await following).remarks == ()


@pytest.mark.parametrize("mood", ["forbidden", "broken", "nonsense"])
async def test_failures_are_no_answers(server: ApiServer, tmp_path: Path, mood: str) -> None:
    """Failures raise DiscoveryError, so that the known backends stay. After them all slices are read again."""
    asked = source(tmp_path)
    await asked.ask()
    server.mood = {"list": mood, "watch": mood}
    with pytest.raises(DiscoveryError, match="Service voice/agents: ") as caught:
        await asked.ask()
    assert server.token not in str(caught.value)
    assert asked.retry_s == RETRY_S
    server.mood.clear()
    await server.put("agents-a", {"10.0.0.8": READY})
    assert await endpoints(asked) == ["10.0.0.8:4433", "[2001:db8::7]:4433"]


async def test_a_token_may_be_renewed(server: ApiServer, tmp_path: Path) -> None:
    """The source reads a renewed token from the same file."""
    asked = source(tmp_path)
    await asked.ask()
    server.token = "another token"
    with pytest.raises(DiscoveryError, match="Unauthorized"):
        await asked.ask()
    server.write_kubeconfig(tmp_path)
    assert len(await endpoints(asked)) == 3


async def test_a_server_with_a_foreign_certificate_is_rejected(server: ApiServer, tmp_path: Path) -> None:
    """A server with a certificate of another authority gets no request and so no token."""
    folder = tmp_path / "stranger"
    folder.mkdir()
    async with api_server(folder) as impostor:
        impostor.authority = server.authority
        impostor.write_kubeconfig(tmp_path)
        with pytest.raises(DiscoveryError, match="certificate"):
            await source(tmp_path).ask()
        assert impostor.asked == []


WITHOUT_USER: Final = """\
clusters: [{name: a, cluster: {server: "http://127.0.0.1:9"}}]
contexts: [{name: a, context: {cluster: a}}]
current-context: a
"""


@pytest.mark.parametrize("text", ["", "[", "clusters: 7", "clusters: [{name: a, cluster: {}}]", WITHOUT_USER])
async def test_invalid_kubeconfigs(tmp_path: Path, text: str) -> None:
    """An invalid or missing kubeconfig raises DiscoveryError and no error of the library."""
    (tmp_path / "kubeconfig").write_text(text)
    with pytest.raises(DiscoveryError):
        await source(tmp_path).ask()
    (tmp_path / "kubeconfig").unlink()
    with pytest.raises(DiscoveryError):
        await source(tmp_path).ask()


async def test_a_kubeconfig_that_is_a_pipe(tmp_path: Path) -> None:
    """A pipe is rejected without a wait for a writer, which would block the event loop."""
    os.mkfifo(tmp_path / "kubeconfig")
    with pytest.raises(DiscoveryError, match="not a regular file"):
        await source(tmp_path).ask()


async def test_without_a_kubeconfig(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a configured kubeconfig, and outside of a pod, the source uses $KUBECONFIG."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    assert len(await endpoints(source(tmp_path, kubeconfig=None))) == 3
    assert server.asked == ["list"]


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without lightkube, the error names the extra to install."""
    monkeypatch.setitem(sys.modules, "lightkube", None)
    with pytest.raises(ConfigError, match=r"qlb\[kubernetes\]"):
        source(tmp_path)
