"""Both probes in separate networks: without a free local port, with a link-local server, and with a firewall."""

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
import uvloop
from aioquic.asyncio.server import QuicServer
from aioquic.quic.configuration import QuicConfiguration

from lab.namespace import network_of_its_own
from qlb.addresses import Endpoint
from qlb.demo.http3 import make_certificate
from qlb.health.handshake import probe_handshake
from qlb.health.probe import Probe, ProbeResult, Target
from qlb.health.version_negotiation import probe_version_negotiation

pytestmark = [
    pytest.mark.network,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.parametrize("probe", [probe_version_negotiation, probe_handshake]),
    pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]),
]

PATIENCE_S: Final = 240.0
TRY_S: Final = 5.0
Loop = Callable[[], asyncio.AbstractEventLoop]


def run(loop: Loop, work: Coroutine[Any, Any, ProbeResult]) -> ProbeResult:
    """Run a probe on a fresh loop; return its result."""
    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(work)


def ip(command: str) -> None:
    """Run one ip command in this thread's network."""
    subprocess.run(["ip", *command.split()], check=True, capture_output=True)


def test_no_local_port_is_left(probe: Probe, loop: Loop) -> None:
    """Without a free local port (as in a flood that opens many sessions), the result is this node's error."""
    with network_of_its_own(), ExitStack() as stack:
        ip("link set lo up")
        Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("40000 40003", encoding="ascii")
        for port in range(40000, 40004):
            stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)).bind(("0.0.0.0", port))
        result = run(loop, probe(Target("a", Endpoint("127.0.0.1", 443)), PATIENCE_S))
    assert (result.ok, result.void, result.error, result.reached) == (False, True, "EAGAIN", False)


def test_a_link_local_server(probe: Probe, loop: Loop) -> None:
    """The probe reaches a link-local server by its interface."""

    async def work() -> ProbeResult:
        certificate = make_certificate()
        configuration = QuicConfiguration(
            is_client=False,
            alpn_protocols=["h3"],
            certificate=certificate.certificate,
            private_key=certificate.private_key,
        )
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        sock.bind(("fe80::1", 0, 0, socket.if_nametoindex("v0")))
        port = sock.getsockname()[1]
        loop = asyncio.get_running_loop()
        end_s = loop.time() + PATIENCE_S
        _, server = await loop.create_datagram_endpoint(lambda: QuicServer(configuration=configuration), sock=sock)
        try:
            while True:  # the system may drop a packet while the interfaces come up, and a probe may send only one
                result = await probe(Target("a", Endpoint("fe80::1%v0", port), alpn=("h3",)), TRY_S)
                if result.ok or loop.time() > end_s:
                    return result
        finally:
            server.close()

    with network_of_its_own():
        for command in ("link set lo up", "link add v0 type veth peer name v1", "link set v0 up", "link set v1 up"):
            ip(command)
        ip("-6 addr add fe80::1/64 dev v0 nodad")
        result = run(loop, work())
    assert result.ok, result.detail


def test_an_interface_that_is_not_there(probe: Probe, loop: Loop) -> None:
    """A missing interface is a bad result, because clients' packets could not reach the backend either."""
    with network_of_its_own():
        result = run(loop, probe(Target("a", Endpoint("fe80::1%none0", 443)), PATIENCE_S))
    assert (result.ok, result.void, result.error) == (False, False, "")
    assert "there is no network interface none0" in result.detail


@pytest.mark.skipif(shutil.which("nft") is None, reason="nft is not installed")
def test_a_local_firewall(probe: Probe, loop: Loop) -> None:
    """A blocked probe is doubtful, since the rule may block clients' packets too. The detail names the firewall."""
    with network_of_its_own():
        ip("link set lo up")
        rules = "table inet t { chain out { type filter hook output priority 0; udp dport 443 drop; }; }"
        if subprocess.run(["nft", rules], capture_output=True, check=False).returncode:
            pytest.skip("this kernel has no nftables")
        result = run(loop, probe(Target("a", Endpoint("127.0.0.1", 443)), PATIENCE_S))
    assert (result.ok, result.void, result.error, result.doubtful) == (False, False, "EPERM", True)
    assert "a local firewall rule" in result.detail
