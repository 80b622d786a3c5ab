"""``qlb decap`` on a real interface: a veth pair, the service address on lo, and a server's UDP socket."""

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import pytest
from click.testing import CliRunner

from lab.namespace import in_a_network_of_its_own
from lab.xdp.packets import IPIP, IPV6, UDP, ethernet, ip, udp
from qlb.cli import cli
from qlb.dataplane.xdp import libbpf

SERVICES: Final = {4: "192.0.2.1", 6: "2001:db8::1"}
CLIENTS: Final = {4: "198.51.100.7", 6: "2001:db8:c::7"}
BALANCERS: Final = {4: "10.0.0.1", 6: "fd00::1"}
BACKENDS: Final = {4: "10.0.0.2", 6: "fd00::2"}
PORT: Final = 4433
TIMEOUT_S: Final = 90.0
_MACS: Final = bytes.fromhex("020000000002") + bytes.fromhex("020000000001")
_COMMANDS: Final = """
link add out0 address 02:00:00:00:00:01 type veth peer name in0 address 02:00:00:00:00:02
link set out0 up
link set in0 up
addr add 192.0.2.1/32 dev lo
addr add 2001:db8::1/128 dev lo nodad
addr add 10.0.0.2/24 dev in0
addr add fd00::2/64 dev in0 nodad
route add default via 10.0.0.1
route add default via fd00::1
"""


def in_a_backend(work: Callable[[], None]) -> None:
    """Run a function in a network with a backend's interface, in0, and the other end of its link, out0."""
    if lack := libbpf.what_lacks():
        pytest.skip(lack)

    async def build_and_work() -> None:
        subprocess.run(["ip", "-batch", "-"], input=_COMMANDS, text=True, check=True)
        work()

    in_a_network_of_its_own(build_and_work)


def _start(*words: str) -> subprocess.Popen[str]:
    command = (sys.executable, "-m", "qlb", "decap", *words)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@contextmanager
def running(*words: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command until the end of the block. It is ready when the block begins."""
    process = _start(*words)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate(timeout=TIMEOUT_S)
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.toolchain
def test_a_program_that_is_detached() -> None:
    """If the interface is replaced, the command attaches the program again and reports both events."""

    def work() -> None:
        with running("in0", "--for", SERVICES[4], "--attach", "generic") as process:
            assert process.stderr is not None
            subprocess.run(["ip", "link", "del", "in0"], check=True)
            line = process.stderr.readline()
            assert "in0: the XDP program was detached and cannot be attached again: there is no network" in line
            subprocess.run("ip link add out0 type veth peer name in0; ip link set in0 up", shell=True, check=True)
            assert process.stderr.readline() == "in0: the XDP program was detached; qlb has attached it again\n"
            output = subprocess.run(["ip", "link", "show", "in0"], capture_output=True, text=True, check=True).stdout
            assert "xdpgeneric" in output
            process.send_signal(signal.SIGTERM)
            assert process.wait(TIMEOUT_S) == 0

    in_a_backend(work)


def wrapped(mode: str, inner: int, outer: int, datagram: bytes) -> bytes:
    """Return a client's datagram as the balancer forwards it, in a frame for in0."""
    packet = udp((CLIENTS[inner], 50_000), (SERVICES[inner], PORT), datagram, ttl=63)
    if mode == "ipip":
        return ethernet(ip(BALANCERS[outer], BACKENDS[outer], {4: IPIP, 6: IPV6}[inner], packet), macs=_MACS)
    head = b"\xc3\x51\x17\xc0" + (8 + len(packet)).to_bytes(2, "big") + bytes(2)  # from 50001, to 6080
    return ethernet(ip(BALANCERS[outer], BACKENDS[outer], UDP, head + packet), macs=_MACS)


@pytest.mark.toolchain
@pytest.mark.parametrize("attach", ["native", "generic"])
def test_a_server_sees_what_the_client_has_sent(attach: str) -> None:
    """The server receives the client's packet, in both modes and all pairs of families; SIGTERM ends the command."""
    cases = [(mode, inner, outer) for mode in ("ipip", "gue") for inner in (4, 6) for outer in (4, 6)]

    def work() -> None:
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        servers = {
            4: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
            6: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM),
        }
        options = ("--for", SERVICES[4], "--for", SERVICES[6], "--from", "10.0.0.0/24", "--from", "fd00::1")
        with wire, servers[4], servers[6], running("in0", *options, "--attach", attach) as process:
            wire.bind(("out0", 0))
            for family, server in servers.items():
                server.settimeout(TIMEOUT_S)
                server.bind((SERVICES[family], PORT))
            for number, (mode, inner, outer) in enumerate(cases):
                wire.send(wrapped(mode, inner, outer, b"%d" % number))
                datagram, sender = servers[inner].recvfrom(100)
                assert (datagram, sender[:2]) == (b"%d" % number, (CLIENTS[inner], 50_000)), (mode, inner, outer)
            process.send_signal(signal.SIGTERM)
            output, complaints = process.communicate(timeout=TIMEOUT_S)
            assert (process.returncode, complaints) == (0, "")
            assert output == f"decapsulated={len(cases)} not_for_us=0 wrong_source=0 bad_ecn=0 malformed=0\n"

    in_a_backend(work)


@pytest.mark.toolchain
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_the_program_is_detached_at_the_end(sign: signal.Signals) -> None:
    """While the command runs, a second one on the interface fails with a message; afterwards it succeeds."""

    def work() -> None:
        for _ in range(2):
            with running("in0", "out0", "--for", SERVICES[4]) as process:
                second = _start("lo", "in0", "--for", SERVICES[4])
                output, complaints = second.communicate(timeout=TIMEOUT_S)
                assert (second.returncode, output) == (2, "")
                assert complaints == "no XDP program can be attached to in0 (auto): it has another XDP program\n"
                process.send_signal(sign)
                assert process.wait(TIMEOUT_S) == 0

    in_a_backend(work)


@pytest.mark.toolchain
def test_an_interface_that_is_not_there() -> None:
    """A missing interface is an error with exit code 2 and its name, and nothing stays attached to other interfaces."""

    def work() -> None:
        process = _start("in0", "eth77", "--for", SERVICES[4])
        assert process.communicate(timeout=TIMEOUT_S) == ("", "there is no network interface eth77\n")
        assert process.returncode == 2
        with running("in0", "--for", SERVICES[4]):
            pass

    in_a_backend(work)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--for", "192.0.2.1"], "Missing argument 'INTERFACE...'"),
        (["eth0"], "Missing option '--for'"),
        (["eth0", "--for", "example.net"], "'example.net' is not an IP address"),
        (["eth0", "--for", "192.0.2.1", "--from", "10.0.0.1/8"], "10.0.0.1/8 has host bits set"),
        (["eth0", "--for", "192.0.2.1", "--port", "65536"], "65536 is not in the range 1<=x<=65535"),
        (["eth0", "--for", "192.0.2.1", "--attach", "offload"], "'offload' is not one of"),
    ],
)
def test_a_command_line_that_is_wrong(words: list[str], message: str) -> None:
    """A wrong command line ends with exit code 2 and a message that names the value, before a program is loaded."""
    done = CliRunner().invoke(cli, ["decap", *words])
    assert done.exit_code == 2
    assert message in done.output
