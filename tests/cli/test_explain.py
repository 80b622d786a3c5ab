"""Commands that explain a datagram or a connection ID: their output and their exit codes."""

import json
from pathlib import Path

import pytest

from lab.command_line import PARAMS, Run
from qlb.cid import CidCodec


def test_cid_round_trip(qlb: Run, config: Path) -> None:
    """`cid decode` finds the backend whose ID `cid encode` has printed."""
    cid = qlb("cid", "encode", "--config", config, "b").out.strip()
    found = json.loads(qlb("cid", "decode", "--config", config, "--json", cid).out)
    assert found == {
        "config_id": 1,
        "algorithm": "four-pass" if len(cid) != 34 else "single-pass",
        "server_id": "0b0b0b",
        "backend": "b",
    }
    assert "backend: b" in qlb("cid", "decode", "--config", config, cid).out


def test_cid_encode_with_a_server_id_and_a_nonce(qlb: Run, config: Path) -> None:
    """With a server ID, a config ID and a nonce, only the free bits of the first octet are random."""
    nonce = "00112233"
    result = qlb("cid", "encode", "--config", config, "--config-id", 2, "--nonce", nonce, "0000000a")
    assert result.out.strip()[2:] == "0000000a" + nonce


def test_cid_of_a_server_with_another_key(qlb: Run, config: Path) -> None:
    """An ID that decodes to no backend's server ID comes from a server with another key, or from nowhere."""
    cid = CidCodec(PARAMS).encode(b"\x0c" * 3, bytes(13)).hex()
    result = qlb("cid", "decode", "--config", config, cid)
    assert result.out.endswith("backend: none has this server ID (does the server have another key?)\n")
    assert json.loads(qlb("cid", "decode", "--config", config, "--json", cid).out)["backend"] is None


@pytest.mark.parametrize("arguments", [("encode", "nobody"), ("decode", "ff00"), ("decode", "20"), ("encode", "0a0a")])
def test_cid_refusals(qlb: Run, config: Path, arguments: tuple[str, str]) -> None:
    """Names and IDs that the configuration does not know exit with 1 and one line."""
    verb, value = arguments
    result = qlb("cid", verb, "--config", config, value)
    assert result.code == 1
    assert result.err.startswith("qlb: ")
    assert result.err.count("\n") == 1


def test_explain_a_routable_datagram(qlb: Run, config: Path) -> None:
    """The steps name the algorithm, the server ID, the backend and the sections of the specifications."""
    datagram = b"\x40" + CidCodec(PARAMS).encode(b"\x0b" * 3, bytes(13)) + bytes(20)
    out = qlb("explain", config, datagram.hex()).out
    for word in ("single-pass", "0b0b0b", "127.0.0.1:5002", "draft-ietf-quic-load-balancers", "RFC 8999"):
        assert word in out
    answer = json.loads(qlb("explain", config, datagram.hex(), "--json").out)
    assert (answer["outcome"], answer["backend"]) == ("cid_config_1", "b")
    assert qlb("explain", datagram.hex(), "--config", config).out == out
    assert qlb("explain", f"--config={config}", datagram.hex()).out == out


def test_explain_follows_the_client(qlb: Run, config: Path) -> None:
    """The client's address determines the backend of an unroutable datagram: always the same one for one address."""
    datagram = "c00000000108" + "e0" * 8 + "00"

    def backend(client: str) -> str:
        return str(json.loads(qlb("explain", config, datagram, "--client", client, "--json").out)["backend"])

    chosen = [backend(client) for client in ("192.0.2.7:1000", "192.0.2.7:1000", "[2001:db8::1]:5", "[2001:db8::1]:5")]
    assert chosen[0] == chosen[1]
    assert chosen[2] == chosen[3]
    assert {backend(f"192.0.2.7:{port}") for port in range(1001, 1007)} == {"a", "b"}


def test_explain_treats_mapped_clients_as_ipv4(qlb: Run, config: Path) -> None:
    """[::ffff:192.0.2.7] is 192.0.2.7, in the output too."""
    datagram = "c00000000108" + "e0" * 8 + "00"
    plain = qlb("explain", config, datagram, "--client", "192.0.2.7:1234").out
    assert "192.0.2.7 port 1234" in plain
    assert qlb("explain", config, datagram, "--client", "[::ffff:192.0.2.7]:1234").out == plain


@pytest.mark.parametrize("arguments", [("zz",), ("40", "--client", "nonsense")])
def test_explain_usage(qlb: Run, config: Path, arguments: tuple[str, ...]) -> None:
    """A datagram that is not hex and a client that is not an address are usage errors."""
    assert qlb("explain", config, *arguments).code == 2


def test_explain_an_empty_datagram(qlb: Run, config: Path) -> None:
    """An empty datagram is explained too."""
    assert json.loads(qlb("explain", config, "", "--json").out)["outcome"] == "drop_empty"


def test_explain_live_needs_a_control_socket(qlb: Run, config: Path) -> None:
    """--live without admin.socket names the way out, and --socket replaces admin.socket."""
    result = qlb("explain", config, "40", "--live")
    assert (result.code, "set admin.socket" in result.err) == (1, True)
    missing = config.with_name("missing.sock")
    result = qlb("explain", config, "40", "--live", "--socket", missing)
    assert (result.code, f"no daemon answers at {missing}" in result.err) == (1, True)
