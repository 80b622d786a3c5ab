"""Envoy, with an independent QUIC-LB codec, issues connection IDs, and the daemon routes by them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from lab import cid_oracle as oracle
from lab import envoy, ngtcp2
from lab.daemon import configuration, running
from lab.journeys import Journey, aioquic_journey, ngtcp2_journey, rebound_twice
from lab.nat import Nat, NatPort
from lab.origin import origin
from lab.ports import free_port
from lab.server import Server
from lab.stage import KEY, LIMIT_S, NAMES
from lab.stories import Gates
from qlb.cid import CidCodec, CidParams
from qlb.wire.invariants import LONG, parse

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(envoy.program() is None, reason=envoy.MISSING)]

CONNECTIONS: Final = 10
SHAPES: Final = {
    "four-pass-even": CidParams(config_id=0, server_id_length=4, nonce_length=10, key=KEY),
    "four-pass-odd": CidParams(config_id=2, server_id_length=3, nonce_length=8, key=KEY),
    "four-pass-long-server-id": CidParams(config_id=5, server_id_length=10, nonce_length=5, key=KEY),
    "four-pass-longest": CidParams(config_id=6, server_id_length=4, nonce_length=14, key=KEY),
    "single-pass": CidParams(config_id=1, server_id_length=4, nonce_length=12, key=KEY),
    "plaintext": CidParams(config_id=3, server_id_length=4, nonce_length=8),
}

Travel = Callable[[NatPort, Gates, Path], Coroutine[object, None, Journey]]

every_shape = pytest.mark.parametrize("params", list(SHAPES.values()), ids=list(SHAPES))


@asynccontextmanager
async def envoys(folder: Path, params: CidParams, gates: Gates, count: int) -> AsyncIterator[list[Server]]:
    """Run some Envoys and their origin, within the time limit of a test."""
    async with (
        asyncio.timeout(LIMIT_S),
        origin(gates) as address,
        envoy.envoys(NAMES[:count], params, address, folder / "envoy") as servers,
    ):
        yield servers


@every_shape
async def test_ids_decode_by_the_draft(tmp_path: Path, params: CidParams) -> None:
    """Each ID that Envoy issues decodes to its server ID, by the draft's algorithm and by qlb's codec."""
    gates, codec = Gates(), CidCodec(params)
    async with envoys(tmp_path, params, gates, 1) as (server,):
        with Nat() as nat:
            port = nat.port(server.address)
            journey = await aioquic_journey(port, gates, rebound_twice, migrations=1)
    assert (journey.backend, journey.lost) == (server.name, None)

    found = issued_ids(port, params)
    assert len(found) >= 2, "an ID is missing: the first, or the one after the migration"
    assert {cid[0] >> 5 for cid in found} == {params.config_id}
    by_the_draft = [oracle.decode(params.key, params.server_id_length, params.nonce_length, cid) for cid in found]
    assert {decoded[0] for decoded in by_the_draft if decoded is not None} == {server.server_id}
    assert {codec.decode(cid) for cid in found} == {server.server_id}


async def aioquic(port: NatPort, gates: Gates, _: Path) -> Journey:
    """Run an aioquic client: the NAT rebinds twice, then the client migrates."""
    return await aioquic_journey(port, gates, rebound_twice, migrations=1)


async def ngtcp2_migrating(port: NatPort, gates: Gates, folder: Path) -> Journey:
    """Run an ngtcp2 client: it migrates, then the NAT rebinds twice."""
    return await ngtcp2_journey(port, gates, rebound_twice, folder, ngtcp2.Mode.MIGRATE)


async def ngtcp2_nat_rebinding(port: NatPort, gates: Gates, folder: Path) -> Journey:
    """Run an ngtcp2 client: it changes its port as a NAT would, then the NAT rebinds twice."""
    return await ngtcp2_journey(port, gates, rebound_twice, folder, ngtcp2.Mode.NAT_REBINDING)


@pytest.mark.parametrize(
    "travels",
    [
        pytest.param((aioquic,), id="aioquic"),
        pytest.param((ngtcp2_migrating, ngtcp2_nat_rebinding), id="ngtcp2", marks=ngtcp2.needed),
    ],
)
@every_shape
async def test_no_connection_is_lost(tmp_path: Path, params: CidParams, travels: tuple[Travel, ...]) -> None:
    """Clients change their addresses during transfers through the daemon. None is lost, and all are routed by ID."""
    gates, service = Gates(), ("127.0.0.1", free_port())
    async with (
        envoys(tmp_path, params, gates, len(NAMES)) as servers,
        running(tmp_path / "daemon", configuration([service], [params], servers)) as daemon,
    ):
        with Nat() as nat:
            journeys = await asyncio.gather(
                *(travel(nat.port(service), gates, tmp_path) for travel in travels for _ in range(CONNECTIONS))
            )
        assert [journey.lost for journey in journeys if journey.lost] == []
        assert {journey.changes for journey in journeys} == {3}
        found = await daemon.settled()
        by_id = found.total("qlb_cid_config_packets_total", config_id=str(params.config_id))
        assert by_id > 5 * len(journeys)


def issued_ids(port: NatPort, params: CidParams) -> set[bytes]:
    """Return the IDs that the server has issued: all destination IDs of the client but its own first choice."""
    length = 1 + params.plaintext_len + envoy.APPENDED_BYTES
    _, _, own_choice, _ = parse(port.headers[0])
    parsed = [parse(header) for header in port.headers]
    found = {dcid if form == LONG else dcid[:length] for form, _, dcid, _ in parsed} - {own_choice}
    assert {len(cid) for cid in found} == {length}
    return found
