"""The check of the connection ID in a server's answer. dataplane/test_ids_of_servers.py runs it on every plane."""

import pytest

from qlb.addresses import Endpoint
from qlb.cid import CidCodec, CidParams, reserved_cid
from qlb.routing.backends import Backend
from qlb.routing.flows import FlowTables
from qlb.routing.router import Router, unknown_id
from qlb.routing.shown import RIGHT, UNROUTABLE, WRONG, judge, shown_id
from qlb.routing.snapshot import compile_snapshot
from qlb.wire.versions import V1, V2, is_retry

PARAMS = CidParams(1, 4, 8, bytes(range(16)), length_self_encoded=True)
CODEC = CidCodec(PARAMS)
FLOW = ("192.0.2.77", 5000, "198.51.100.1", 443)
CHOSEN = b"\x99" + b"\x77" * 9


def id_of(server_id: bytes) -> bytes:
    """Return an ID with this server ID."""
    return CODEC.encode(server_id, bytes(8))


def header(first: int, version: int, dcid: bytes, scid: bytes) -> bytes:
    """Return a long header."""
    return bytes((first, *version.to_bytes(4, "big"), len(dcid))) + dcid + bytes((len(scid),)) + scid + b"rest"


@pytest.fixture
def router() -> Router:
    """Return a router with two backends, to one of which a client has sent its first packet."""
    backends = [Backend(name, Endpoint("192.0.2.1", 443), {1: (name.encode() * 4,)}) for name in "ab"]
    router = Router(compile_snapshot(1, [PARAMS], backends, fallback_key=bytes(16)), FlowTables(100, 30.0))
    router.decide(header(0xC0, V1, CHOSEN, b"client"), FLOW, 0.0)
    return router


@pytest.mark.parametrize(
    ("cid", "kind"),
    [
        (id_of(b"aaaa"), RIGHT),
        (id_of(b"bbbb"), WRONG),
        (id_of(b"cccc"), WRONG),
        (id_of(b"aaaa") + b"x", WRONG),
        (id_of(b"aaaa")[:-1], WRONG),
        (b"\x80" + bytes(7), WRONG),
        (b"", UNROUTABLE),
        (reserved_cid(8), UNROUTABLE),
        (CHOSEN, None),
    ],
    ids=["own", "another's", "nobody's", "longer", "shorter", "unconfigured", "none", "reserved", "the client's"],
)
def test_the_kinds(router: Router, cid: bytes, kind: int | None) -> None:
    """An ID is right, wrong, unroutable on purpose, or the client's own choice, which proves nothing."""
    assert judge(router, cid, 0, 1.0) == kind


def test_the_client_s_choice_is_forgotten_with_its_flow(router: Router) -> None:
    """An expired flow does not excuse an ID."""
    assert judge(router, CHOSEN, 0, 31.0) == WRONG


@pytest.mark.parametrize(
    ("datagram", "shown"),
    [
        (header(0xC0, V1, b"client", b"server"), b"server"),
        (header(0xE0, V1, b"client", b""), b""),
        (header(0xD0, V2, b"client", b"server"), b"server"),
        (header(0xC0, 0, b"client", b"server"), None),
        (header(0xF0, V1, b"client", b"server"), None),
        (header(0xC0, V2, b"client", b"server"), None),
        (header(0xC0, V1, b"client", b"server")[:15], None),
        (b"\x40" + bytes(30), None),
        (b"", None),
    ],
    ids=["Initial", "Handshake", "version 2", "negotiation", "Retry", "Retry 2", "truncated", "short", "empty"],
)
def test_packets_that_show_an_id(datagram: bytes, shown: bytes | None) -> None:
    """Complete long headers show an ID, except for Version Negotiation and Retry."""
    assert shown_id(datagram) == shown


@pytest.mark.parametrize(
    ("first", "version", "expected"),
    [(0xC0, V1, False), (0xF0, V1, True), (0xBF, 0xFF00001D, True), (0xC0, V2, True), (0xF0, V2, False)],
)
def test_the_type_bits_of_a_retry(first: int, version: int, expected: bool) -> None:
    """Version 2 has other type bits than version 1 and unknown versions."""
    assert is_retry(first, version) is expected


def test_short_headers_with_an_unknown_server_id(router: Router) -> None:
    """Only a short header whose ID decodes to no backend counts, by fallback and by 4-tuple."""
    unknown, known = b"\x40" + id_of(b"cccc") + b"rest", b"\x40" + id_of(b"aaaa") + b"rest"
    long = header(0xC0, V1, id_of(b"cccc"), b"client")
    elsewhere = ("203.0.113.9", *FLOW[1:])
    for datagram, expected in ((unknown, 1), (unknown, 1), (known, -1), (long, -1), (b"\x40" + bytes(20), -1)):
        assert unknown_id(router.decide(datagram, elsewhere, 1.0)[0], datagram) == expected
