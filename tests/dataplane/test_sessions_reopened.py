"""A session whose socket no longer works gets a new one; stale errors cost no datagram. Both planes."""

import asyncio
import functools
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import pytest

from lab.dataplane.far_network import (
    FAR,
    NEAR,
    Echo,
    add_address,
    command,
    far_network,
    remove_address,
    send_icmp,
    talk,
    talk_until_answered,
)
from lab.dataplane.network import FOUR_PASS, Network, backend, cid_of, orders, receive, short_header
from lab.dataplane.running import Run, Running
from lab.namespace import in_a_network_of_its_own
from qlb.addresses import Endpoint
from qlb.routing import counters as layout
from qlb.routing.outcomes import DROP_NO_SESSION, DROP_SEND_FAILED
from qlb.routing.sums import total_backend_send_errors

pytestmark = pytest.mark.network

TO_B0: Final = short_header(cid_of(FOUR_PASS, 0))
TO_B1: Final = short_header(cid_of(FOUR_PASS, 1))
LOOPBACK: Final = {4: "127.0.0.1", 6: "::1"}
both_families = pytest.mark.parametrize("family", [4, 6])


def run_loops() -> list[Any]:
    """Return runners for a coroutine: asyncio's own loop, and uvloop, which watches sockets differently."""
    found = [pytest.param(asyncio.run, id="own-loop")]
    with suppress(ImportError):
        import uvloop

        found.append(pytest.param(uvloop.run, id="uvloop"))
    return found


@both_families
def test_a_call_continues_after_the_local_address_has_changed(running: Run, family: int) -> None:
    """A session whose local address was removed gets a new socket and is not evicted."""

    async def work() -> None:
        network = Network()
        with network.stack, far_network(network) as far, Echo(far.socket(FAR[family], 5001)) as echo:
            client = network.socket()
            async with running(orders([backend(0, Endpoint(FAR[family], 5001))])) as qlb:
                await talk_until_answered(qlb, client, TO_B0)
                new = "fd09::7" if family == 6 else "10.9.0.7"
                remove_address(NEAR[family], "up0")
                add_address(new, "up0")
                await talk_until_answered(qlb, client, TO_B0)
                assert echo.senders[-1][0] == new
                assert qlb.slot(layout.SESSIONS_REOPENED) >= 1
                assert qlb.slot(layout.SESSIONS) == 1
                assert qlb.slot(layout.SESSIONS_EVICTED) == 0

    in_a_network_of_its_own(work)


@both_families
def test_a_call_continues_after_a_route_was_missing(running: Run, family: int) -> None:
    """While there is no route, the packets are dropped and counted; when the route is back, the call continues."""

    async def work() -> None:
        network = Network()
        with network.stack, far_network(network) as far, Echo(far.socket(FAR[family], 5001)):
            client = network.socket()
            async with running(orders([backend(0, Endpoint(FAR[family], 5001))])) as qlb:
                await talk_until_answered(qlb, client, TO_B0)
                command("ip", "link", "set", "up0", "down")
                await talk(qlb, client, TO_B0, lambda: qlb.send_error("unreachable") > 0)
                assert qlb.outcome(DROP_NO_SESSION) == 0
                command("ip", "link", "set", "up0", "up")
                if family == 6:
                    add_address(NEAR[6], "up0")  # the kernel removes IPv6 addresses from a device that goes down
                await talk_until_answered(qlb, client, TO_B0)
                assert qlb.slot(layout.SESSIONS) == 1

    in_a_network_of_its_own(work)


@both_families
def test_a_call_continues_after_a_nat_target_has_moved(running: Run, family: int) -> None:
    """If a NAT still translates to the old, silent target, a new socket reaches the new target."""

    async def work() -> None:
        network = Network()
        word, virtual = ("ip", "10.9.0.99") if family == 4 else ("ip6", "fd09::99")

        def translate(port: int) -> None:
            target = f"{FAR[4]}:{port}" if family == 4 else f"[{FAR[6]}]:{port}"
            command(
                "nft",
                f"flush chain {word} t o; add rule {word} t o {word} daddr {virtual} meta l4proto udp dnat to {target}",
            )

        with network.stack, far_network(network) as far:
            command(
                "nft",
                f"add table {word} t; add chain {word} t o {{ type nat hook output priority -100; policy accept; }}",
            )
            translate(5001)
            client = network.socket()
            async with running(orders([backend(0, Endpoint(virtual, 4433))])) as qlb:
                with Echo(far.socket(FAR[family], 5001)):
                    await talk_until_answered(qlb, client, TO_B0)
                translate(5002)
                with Echo(far.socket(FAR[family], 5002)):
                    await talk_until_answered(qlb, client, TO_B0)
                assert qlb.slot(layout.SESSIONS_REOPENED) >= 1
                assert qlb.slot(layout.SESSIONS) == 1

    in_a_network_of_its_own(work)


@both_families
async def test_a_silent_session_gets_a_new_socket_if_it_was_ever_answered(
    running: Run, network: Network, family: int
) -> None:
    """A silent session gets a new socket if its server has answered before; otherwise it does not."""
    sockets, backends = network.pool(host=LOOPBACK[family])
    client, other = network.socket(), network.socket()
    async with running(orders(backends)) as qlb:
        with Echo(sockets[0]) as echo, Echo(sockets[1], lambda _: False) as mute:
            await talk_until_answered(qlb, client, TO_B0)
            first = echo.senders[0]
            echo.answers = lambda sender: sender != first
            replies = asyncio.create_task(talk_until_answered(qlb, client, TO_B0))
            await talk(qlb, other, TO_B1, replies.done)
            await replies
            assert echo.senders[-1] != first
            assert len(set(echo.senders)) == 2
            assert len(set(mute.senders)) == 1
            assert qlb.slot(layout.SESSIONS_REOPENED) == 1
            assert qlb.slot(layout.SESSIONS) == 2


async def test_answers_that_wait_in_the_old_socket_are_not_lost(running: Run, network: Network) -> None:
    """Answers that reach the old or the new socket of a reopened session go to the client."""
    sockets, backends = network.pool()
    client = network.socket()
    async with running(orders(backends)) as qlb:
        with Echo(sockets[0]) as echo:
            await talk_until_answered(qlb, client, TO_B0)
            first = echo.senders[0]
            echo.answers = lambda _: False
            await talk(qlb, client, TO_B0, lambda: echo.senders[-1] != first)
            sockets[0].sendto(b"push", echo.senders[-1])
            async with asyncio.timeout(60):
                while (await receive(client))[0] != b"push":
                    pass


ICMP_IPV4: Final = [
    (3, 2, "other"),
    (3, 3, "refused"),
    (3, 4, "too_large"),
    (3, 9, "unreachable"),
    (3, 13, "unreachable"),
]
ICMP_IPV6: Final = [(1, 1, "not_permitted"), (1, 4, "refused"), (1, 6, "not_permitted"), (2, 0, "too_large")]


@pytest.mark.parametrize("run_loop", run_loops())
@pytest.mark.parametrize(
    ("family", "kind", "code", "counted"),
    [(4, *one) for one in ICMP_IPV4] + [(6, *one) for one in ICMP_IPV6],
)
def test_an_icmp_error_costs_no_other_datagram(
    running: Run, run_loop: Callable[..., Any], family: int, kind: int, code: int, counted: str
) -> None:
    """Each error is counted for its backend and cleared; both directions continue through the same socket."""

    async def work() -> None:
        network = Network()
        with network.stack:
            sockets, backends = network.pool(host=LOOPBACK[family])
            client = network.socket()
            async with running(orders(backends)) as qlb:
                await qlb.send(client, TO_B0)
                _, reply_to = await receive(sockets[0])
                remote = sockets[0].getsockname()[:2]
                for number in range(1, 11):
                    send_icmp(kind, code, reply_to[:2], remote)
                    datagram = TO_B0 + b"%d" % number
                    client.sendto(datagram, qlb.service)
                    assert await receive(sockets[0]) == (datagram, reply_to)
                    await qlb.until(lambda: total_backend_send_errors([qlb.counters], 0)[counted] == number)  # noqa: B023
                    sockets[0].sendto(b"push", reply_to)
                    assert (await receive(client))[0] == b"push"
                assert qlb.outcome(DROP_SEND_FAILED) == 0
                assert qlb.slot(layout.SESSIONS_REOPENED) == 0
                assert qlb.slot(layout.SEND_ERRORS) == 10

    in_a_network_of_its_own(work, run_loop)


@pytest.mark.parametrize("run_loop", run_loops())
def test_a_pending_error_does_not_end_the_reading(running: Run, run_loop: Callable[..., Any]) -> None:
    """After a refused packet, a restarted server can still send first through the same session."""

    async def work() -> None:
        network = Network()
        with network.stack:
            sockets, backends = network.pool()
            client = network.socket()
            async with running(orders(backends)) as qlb:
                await qlb.send(client, TO_B0)
                _, reply_to = await receive(sockets[0])
                address = sockets[0].getsockname()
                for _ in range(3):
                    before = qlb.send_error("refused")
                    sockets[0].close()
                    await qlb.send(client, TO_B0)
                    await qlb.until(lambda: qlb.send_error("refused") > before)  # noqa: B023
                    sockets[0] = network.socket(*address)
                    sockets[0].sendto(b"push", reply_to)
                    assert (await receive(client))[0] == b"push"

    run_loop(work())


def _has_forwarded(qlb: Running, count: int) -> bool:
    """Check whether this number of datagrams was routed by their IDs."""
    return qlb.outcome(FOUR_PASS.config_id) == count


@both_families
@pytest.mark.parametrize("run_loop", run_loops())
def test_routers_errors_about_some_cost_no_others(running: Run, family: int, run_loop: Callable[..., Any]) -> None:
    """If a firewall at the far end rejects one datagram in five, all others arrive and are answered."""

    async def work() -> None:
        network = Network()
        word, reject = ("ip", "icmp type admin-prohibited") if family == 4 else ("ip6", "icmpv6 type admin-prohibited")
        with network.stack, far_network(network) as far:
            far.command(
                "nft",
                f"add table {word} t; add chain {word} t i {{ type filter hook input priority 0; }}; "
                f"add rule {word} t i udp dport 5001 numgen inc mod 5 4 reject with {reject}",
            )
            server = far.socket(FAR[family], 5001)
            client = network.socket()
            async with running(orders([backend(0, Endpoint(FAR[family], 5001))])) as qlb:
                for number in range(100):
                    client.sendto(TO_B0 + b"%d" % number, qlb.service)
                    if number % 5 != 4:
                        datagram, reply_to = await receive(server)
                        assert datagram == TO_B0 + b"%d" % number
                        server.sendto(datagram, reply_to)
                        assert (await receive(client))[0] == datagram
                    # One at a time: if sendmmsg() stops at an error, it does not report the error.
                    await qlb.until(functools.partial(_has_forwarded, qlb, number + 1))
                assert qlb.outcome(DROP_SEND_FAILED) == 0
                assert qlb.slot(layout.SEND_ERRORS) > 0

    in_a_network_of_its_own(work, run_loop)
