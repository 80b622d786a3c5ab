"""A pool that grows and shrinks by DNS, Kubernetes or a file, without an edit of the configuration or lost calls."""

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from lab.clients import in_progress
from lab.daemon import Daemon, backend_config, configuration, running
from lab.discovery.api_server import ENDING, QUIC, READY, api_server
from lab.discovery.dns_server import dns_server
from lab.nat import Nat
from lab.ports import free_port
from lab.quic_servers import quic_servers
from lab.stage import LIMIT_S, PARAMS
from lab.stories import Gates
from qlb.cid import CidGenerator

pytestmark = pytest.mark.e2e

CALLS: Final = 16
NAME: Final = "agents.test."
HOSTS: Final = ("127.0.1.1", "127.0.1.2", "127.0.1.3")
PATIENT: Final = {"drain": {"quiet_period": "10m"}}
"""While calls are active: on a starved machine, clients may be silent for a second, and lose a backend that drains."""
QUIET: Final = {"drain": {"quiet_period": "500ms"}}


async def until_pool(daemon: Daemon, **wanted: str) -> dict[str, Any]:
    """Wait until these are the backends and their states, and every worker has applied them. Return /status.

    A keyword is "n" and the last number of an address.
    """

    def matches(status: dict[str, Any]) -> bool:
        found = {row["address"].split(":")[0].split(".")[-1]: row["state"] for row in status["backends"]}
        forwarded = all((row["state"] == "active") == (row["fallback_share"] > 0) for row in status["backends"])
        return forwarded and found == {name.removeprefix("n"): state for name, state in wanted.items()}

    return await daemon.until_applied(matches)


@dataclass(frozen=True)
class Registry:
    """A fake registry. source: keys of the configuration. set_hosts: changes the hosts. fail: makes requests fail."""

    source: dict[str, Any]
    set_hosts: Callable[[Sequence[str]], Awaitable[None]]
    fail: Callable[[], None]


@asynccontextmanager
async def dns_registry(_folder: Path, port: int) -> AsyncIterator[Registry]:
    """Run a DNS server as a registry."""
    async with dns_server() as dns:
        dns.ttl_s = {"A": 0}

        async def set_hosts(hosts: Sequence[str]) -> None:
            dns.records = {(NAME, "A"): list(hosts)}

        source = {"dns": "agents.test", "port": str(port), "resolvers": [str(dns.address)]}
        yield Registry(source, set_hosts, lambda: dns.mood.update({NAME: "broken"}))


@asynccontextmanager
async def kubernetes_registry(folder: Path, port: int) -> AsyncIterator[Registry]:
    """Run a Kubernetes API server as a registry. A removed endpoint is first marked as terminating."""
    async with api_server(folder) as api:
        ports = [QUIC | {"port": port}]

        async def set_hosts(hosts: Sequence[str]) -> None:
            before = [one["addresses"][0] for one in api.slices.get("agents", {}).get("endpoints", ())]
            ending = [host for host in before if host not in hosts]
            await api.put("agents", dict.fromkeys(hosts, READY) | dict.fromkeys(ending, ENDING), ports=ports)

        def fail() -> None:
            api.mood = dict.fromkeys(("list", "watch"), "broken")
            api.hang_up()

        yield Registry({"kubernetes": "voice/agents", "kubeconfig": str(api.write_kubeconfig(folder))}, set_hosts, fail)


@pytest.mark.parametrize("registry", [dns_registry, kubernetes_registry])
async def test_a_pool_grows_and_shrinks(
    tmp_path: Path, registry: Callable[[Path, int], AbstractAsyncContextManager[Registry]]
) -> None:
    """Server IDs derive from addresses. New servers get calls, removed ones retain theirs, and no call is lost."""
    gates, service, port = Gates(), ("127.0.0.1", free_port()), free_port()
    async with (
        asyncio.timeout(LIMIT_S),
        registry(tmp_path, port) as found,
        quic_servers(["agent-1"], PARAMS, gates, host=HOSTS[0], port=port) as first,
        quic_servers(["agent-2"], PARAMS, gates, host=HOSTS[1], port=port) as second,
        quic_servers(["agent-3"], PARAMS, gates, host=HOSTS[2], port=port) as third,
    ):
        for (server,) in (first, second, third):
            assert server.rotation is not None
            server.rotation.rotate(CidGenerator(PARAMS, ipaddress.ip_address(server.address[0]).packed))
        await found.set_hosts(HOSTS[:2])
        every = {
            "name": "agents",
            "networks": ["127.0.1.0/24"],
            "server_id_from": "address",
            "min_interval": "100ms",
        }
        config = configuration([service], [PARAMS], [], discovery=[every | found.source], **PATIENT)
        async with running(tmp_path / "daemon", config) as daemon:
            status = await until_pool(daemon, n1="active", n2="active")
            assert [(row["name"], row["source"]) for row in status["backends"]] == [
                (f"agents-{host}:{port}", "agents") for host in HOSTS[:2]
            ]
            with Nat() as nat:

                def clients() -> list[tuple[str, int]]:
                    return [nat.port(service).address for _ in range(CALLS)]

                async with in_progress(clients()) as early:
                    await early.until_more()
                    await found.set_hosts(HOSTS[1:])
                    await until_pool(daemon, n1="draining", n2="active", n3="active")
                    nat.rebind_all()
                    async with in_progress(clients()) as late:
                        await asyncio.gather(early.until_more(), late.until_more())
                        assert set(early.backends) == {"agent-1", "agent-2"}
                        assert set(late.backends) == {"agent-2", "agent-3"}
                        found.fail()
                        await daemon.until(lambda metrics: not metrics.total("qlb_discovery_up"))
                        nat.rebind_all()
                        await asyncio.gather(early.until_more(), late.until_more())
                    assert early.lost + late.lost == []
                daemon.write(config | QUIET)
                assert (await daemon.command("reload"))[0] == 0
                await until_pool(daemon, n2="active", n3="active")
            metrics = await daemon.metrics()
            assert metrics.by("qlb_discovery_backends", "source") == {"agents": 2}
            assert daemon.logged("backend has left") == 1
            assert daemon.logged("discovery fails") == 1
            code, text = await daemon.cli("server-config", str(daemon.path), "127.0.1.9")
            assert (code, yaml.safe_load(text)["cid_configs"][0]["server_ids"]) == (0, ["7f000109"])


async def test_a_pool_in_a_file(tmp_path: Path) -> None:
    """A file is the source. An invalid version changes nothing, and an upgrade during calls forgets no backend."""
    gates, service, pool = Gates(), ("127.0.0.1", free_port()), tmp_path / "pool.yaml"
    async with asyncio.timeout(LIMIT_S), quic_servers(["one", "two"], PARAMS, gates) as servers:
        own, found = servers
        pool.write_text(yaml.safe_dump({"backends": [backend_config(found, [PARAMS])]}))
        source = {"name": "pool", "file": str(pool)}
        config = configuration([service], [PARAMS], [own], discovery=[source], **PATIENT)
        async with running(tmp_path / "daemon", config) as daemon:
            await daemon.until(lambda metrics: metrics.total("qlb_backend_up") == 2)
            async with in_progress([service] * CALLS) as calls:
                await calls.until_more()
                assert set(calls.backends) == {"one", "two"}
                pool.write_text("backends: [{name: two}]\n")
                await daemon.until(lambda metrics: not metrics.total("qlb_discovery_up"))
                (row,) = (await daemon.status())["discovery"]
                assert f"{pool}:1:12: backends[0] lacks the key address" in row["error"]
                await daemon.upgrade()
                await calls.until_more()
                pool.write_text("backends: []\n")
                await daemon.until(lambda metrics: metrics.by("qlb_backend_draining", "backend").get("two") == 1)
                await calls.until_more()
                assert calls.lost == []
            daemon.write(config | QUIET)
            assert (await daemon.command("reload"))[0] == 0
            await daemon.until(lambda metrics: "two" not in metrics.by("qlb_backend_draining", "backend"))
