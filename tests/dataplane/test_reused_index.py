"""A backend index that is reused, as daemon/rows.py allows: old sessions and flows do not reach the new one."""

from collections.abc import Sequence
from dataclasses import replace

from lab.dataplane.network import FOUR_PASS, SETTINGS, Network, cid_of, receive, short_header
from lab.dataplane.running import Run
from qlb.addresses import Endpoint
from qlb.cid import CidCodec
from qlb.dataplane.base import Orders, PlaneSettings
from qlb.routing.backends import Backend, BackendState
from qlb.routing.maglev import DEFAULT_KEY
from qlb.routing.snapshot import compile_snapshot

NEW_ID = b"\x09" * FOUR_PASS.server_id_length
TO_B0 = short_header(cid_of(FOUR_PASS, 0))
TO_NEW = short_header(CidCodec(FOUR_PASS).encode(NEW_ID, bytes(range(FOUR_PASS.nonce_length))))
UNROUTABLE = b"\x40\xe0" + b"reserved config bits"


def by_index(*backends: Backend | None, settings: PlaneSettings = SETTINGS) -> Orders:
    """Compile orders for backends at these indexes."""
    return Orders(compile_snapshot(1, [FOUR_PASS], backends, fallback_key=DEFAULT_KEY), settings)


def draining(backends: Sequence[Backend]) -> list[Backend]:
    """Return the backends as draining ones, which get no new connections."""
    return [replace(one, state=BackendState.DRAINING) for one in backends]


async def test_a_session_of_the_old_backend_is_not_used_for_the_new_one(running: Run, network: Network) -> None:
    """A client of both backends reaches each by a separate socket."""
    sockets, (old, other, _) = network.pool()
    client, server = network.socket(), network.socket()
    new = Backend("new", Endpoint(*server.getsockname()), {1: (NEW_ID,)})
    async with running(by_index(old, other)) as qlb:
        await qlb.send(client, TO_B0)
        assert (await receive(sockets[0]))[0] == TO_B0
        qlb.plane.apply(by_index(None, other))
        qlb.plane.apply(by_index(new, other))
        await qlb.send(client, TO_NEW)
        datagram, reply_to = await receive(server)
        assert datagram == TO_NEW
        server.sendto(b"answer", reply_to)
        assert (await receive(client))[0] == b"answer"


async def test_a_flow_of_the_old_backend_does_not_lead_to_the_new_one(running: Run, network: Network) -> None:
    """A flow has no effect after the flow timeout, even if no packet has used it since."""
    sockets, (old, *others) = network.pool()
    client, server = network.socket(), network.socket()
    new = Backend("new", Endpoint(*server.getsockname()), {1: (NEW_ID,)})
    brief = replace(SETTINGS, flow_timeout_s=1e-6)
    async with running(by_index(old, *draining(others), settings=brief)) as qlb:
        await qlb.send(client, UNROUTABLE)
        assert (await receive(sockets[0]))[0] == UNROUTABLE
        qlb.plane.apply(by_index(None, *draining(others), settings=brief))
        (left_out,) = draining([new])
        qlb.plane.apply(by_index(left_out, others[0], *draining(others[1:]), settings=brief))
        await qlb.send(client, UNROUTABLE)
        assert (await receive(sockets[1]))[0] == UNROUTABLE


async def test_a_flow_of_a_removed_backend_is_not_renewed(running: Run, network: Network) -> None:
    """A flow of a removed backend expires although packets still arrive, so that its index becomes free."""
    sockets, (old, *others) = network.pool()
    client = network.socket()
    async with running(by_index(old, *draining(others))) as qlb:
        await qlb.send(client, UNROUTABLE)
        assert (await receive(sockets[0]))[0] == UNROUTABLE
        qlb.plane.apply(by_index(None, others[0], *draining(others[1:])))
        await qlb.send(client, UNROUTABLE)
        assert (await receive(sockets[1]))[0] == UNROUTABLE
        (left_out,) = draining([old])
        qlb.plane.apply(by_index(left_out, others[0], *draining(others[1:])))
        await qlb.send(client, UNROUTABLE)
        assert (await receive(sockets[1]))[0] == UNROUTABLE, "the client's flow now belongs to the other backend"
