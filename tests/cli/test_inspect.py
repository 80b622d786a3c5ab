"""Tests of the commands that only read: their output and exit codes."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from qlb.cid import CidCodec, CidParams
from qlb.cli import main
from qlb.dataplane import planes as probe

CONFIGS = Path(__file__).parents[2] / "configs"
KEY = "000102030405060708090a0b0c0d0e0f"
TEXT = f"""
listen: ["127.0.0.1:4433"]
cid_configs:
  - {{config_id: 1, server_id_length: 3, nonce_length: 13, key: {KEY}}}
  - {{config_id: 2, server_id_length: 4, nonce_length: 4}}
backends:
  - {{name: a, address: "127.0.0.1:5001", server_ids: {{1: "0a0a0a", 2: "0000000a"}}}}
  - {{name: b, address: "127.0.0.1:5002", server_ids: {{1: "0b0b0b"}}}}
"""
PARAMS = CidParams(1, 3, 13, bytes.fromhex(KEY))


class Result(NamedTuple):
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def qlb(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command line in this process."""

    def run(*arguments: object) -> Result:
        monkeypatch.setattr("sys.argv", ["qlb", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return Result(int(code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A valid configuration file."""
    path = tmp_path / "qlb.yaml"
    path.write_text(TEXT)
    path.chmod(0o600)
    return path


def test_check_without_keys(qlb: Run, tmp_path: Path) -> None:
    """A CI system without access to the keys can check everything else."""
    path = tmp_path / "qlb.yaml"
    path.write_text(TEXT.replace(f"key: {KEY}", "key_file: keys/1.hex"))
    assert qlb("check", path).code == 2
    code, out, err = qlb("check", "--no-keys", path)
    assert code == 0
    assert out == f"{path}: good; 2 backends, plane {probe.choose('auto', 'proxy')}, key files not read\n"
    assert "cannot be read" not in err
    path.write_text(path.read_text().replace("server_id_length: 3", "server_id_length: 5"))
    code, out, err = qlb("check", "--no-keys", path)
    assert (code, out) == (2, "")
    assert "server_ids" in err


def test_check_of_a_good_file(qlb: Run, config: Path) -> None:
    """A valid configuration gives exit code 0 and one line that names the backends and the plane."""
    result = qlb("check", config)
    assert result.code == 0
    assert result.out == f"{config}: good; 2 backends, plane {probe.choose('auto', 'proxy')}\n"


def test_check_reports_every_problem_at_once(qlb: Run, config: Path) -> None:
    """Problems give exit code 2, a line each with file, line and column on stderr, no stdout and no secret."""
    config.write_text(TEXT.replace("nonce_length: 13", "nonce_lenght: 13").replace("5002", "99999"))
    result = qlb("check", config)
    assert (result.code, result.out) == (2, "")
    lines = result.err.splitlines()
    assert len(lines) >= 2
    assert all(re.match(rf"{config}:\d+:\d+: ", line) for line in lines)
    assert KEY not in result.err


@pytest.mark.parametrize(
    ("forwarding", "message"),
    [("{mode: proxy-protocol}", "there is: gue, ipip, l2, proxy"), ("{plane: xdp}", "batch, asyncio does")],
)
def test_check_rejects_unavailable_modes_and_planes(qlb: Run, config: Path, forwarding: str, message: str) -> None:
    """A mode that does not exist, or that the plane lacks, is an error that lists the alternatives."""
    config.write_text(f"forwarding: {forwarding}\n{TEXT}")
    result = qlb("check", config)
    assert result.code == 2
    assert message in result.err


def test_check_of_no_file(qlb: Run, tmp_path: Path) -> None:
    """A missing file is a configuration problem, without a traceback."""
    result = qlb("check", tmp_path / "missing.yaml")
    assert result.code == 2
    assert "Traceback" not in result.err


def test_usage_errors(qlb: Run) -> None:
    """A wrong command line exits with code 2."""
    assert qlb("no-such-command").code == 2
    assert qlb("check").code == 2


def test_keygen(qlb: Run) -> None:
    """Each key has 32 hex digits and is new."""
    first, second = qlb("keygen").out, qlb("keygen").out
    assert re.fullmatch(r"[0-9a-f]{32}\n", first)
    assert first != second


def test_schema_is_json(qlb: Run) -> None:
    """The printed schema is a JSON Schema."""
    assert json.loads(qlb("schema").out)["$schema"].startswith("https://json-schema.org/")


def test_cid_round_trip(qlb: Run, config: Path) -> None:
    """An ID that encode prints for a backend decodes to that backend."""
    cid = qlb("cid", "encode", "--config", config, "b").out.strip()
    found = json.loads(qlb("cid", "decode", "--config", config, "--json", cid).out)
    assert found == {
        "config_id": 1,
        "algorithm": "four-pass" if len(cid) != 34 else "single-pass",
        "server_id": "0b0b0b",
        "backend": "b",
    }
    assert "backend: b" in qlb("cid", "decode", "--config", config, cid).out


def test_cid_encode_with_all_options(qlb: Run, config: Path) -> None:
    """A server ID in hex, a config ID and a nonce give exactly the codec's ID, except for the first octet."""
    nonce = "00112233"
    result = qlb("cid", "encode", "--config", config, "--config-id", 2, "--nonce", nonce, "0000000a")
    assert result.out.strip()[2:] == "0000000a" + nonce


@pytest.mark.parametrize("arguments", [("encode", "unknown"), ("decode", "ff00"), ("decode", "20"), ("encode", "0a0a")])
def test_cid_errors(qlb: Run, config: Path, arguments: tuple[str, str]) -> None:
    """Names and IDs unknown to the configuration exit with code 1 and one line."""
    verb, value = arguments
    result = qlb("cid", verb, "--config", config, value)
    assert result.code == 1
    assert result.err.startswith("qlb: ")
    assert result.err.count("\n") == 1


def test_explain_a_routable_datagram(qlb: Run, config: Path) -> None:
    """The steps name the CID config, the algorithm, the server ID, the backend and the section of the draft."""
    datagram = b"\x40" + CidCodec(PARAMS).encode(b"\x0b" * 3, bytes(13)) + bytes(20)
    out = qlb("explain", config, datagram.hex()).out
    for word in ("single-pass", "0b0b0b", "127.0.0.1:5002", "draft-ietf-quic-load-balancers", "RFC 8999"):
        assert word in out
    explained = json.loads(qlb("explain", config, datagram.hex(), "--json").out)
    assert (explained["outcome"], explained["backend"]) == ("cid_config_1", "b")


def test_explain_depends_on_the_client(qlb: Run, config: Path) -> None:
    """An unroutable datagram goes to the backend chosen by the hash of the client's address."""
    datagram = "c00000000108" + "e0" * 8 + "00"

    def backend(client: str) -> str:
        return str(json.loads(qlb("explain", config, datagram, "--client", client, "--json").out)["backend"])

    chosen = [backend(client) for client in ("192.0.2.7:1000", "192.0.2.7:1000", "[2001:db8::1]:5", "[2001:db8::1]:5")]
    assert chosen[0] == chosen[1]
    assert chosen[2] == chosen[3]
    assert {backend(f"192.0.2.7:{port}") for port in range(1001, 1007)} == {"a", "b"}


def test_explain_treats_mapped_clients_as_ipv4(qlb: Run, config: Path) -> None:
    """[::ffff:192.0.2.7] is treated, and printed, as 192.0.2.7."""
    datagram = "c00000000108" + "e0" * 8 + "00"
    plain = qlb("explain", config, datagram, "--client", "192.0.2.7:1234").out
    assert "192.0.2.7 port 1234" in plain
    assert qlb("explain", config, datagram, "--client", "[::ffff:192.0.2.7]:1234").out == plain


@pytest.mark.parametrize("arguments", [("zz",), ("40", "--client", "nonsense")])
def test_explain_usage(qlb: Run, config: Path, arguments: tuple[str, ...]) -> None:
    """Invalid hex and an invalid address are usage errors."""
    assert qlb("explain", config, *arguments).code == 2


def test_explain_of_nothing(qlb: Run, config: Path) -> None:
    """An empty datagram is explained too."""
    assert json.loads(qlb("explain", config, "", "--json").out)["outcome"] == "drop_empty"


def test_server_config(qlb: Run, config: Path) -> None:
    """server-config prints what the server must load, key included."""
    out = qlb("server-config", config, "a").out
    assert KEY in out
    assert "0a0a0a" in out
    yang = json.loads(qlb("server-config", config, "b", "--yang").out)
    (model,) = yang.values()
    assert model["config-id"] == 1


def test_server_config_of_an_unknown_backend(qlb: Run, config: Path) -> None:
    """An unknown backend is an error."""
    assert qlb("server-config", config, "unknown").code in (1, 2)


@pytest.mark.parametrize("name", sorted(path.name for path in CONFIGS.glob("*.yaml")))
def test_examples_pass(qlb: Run, tmp_path: Path, name: str) -> None:
    """Every file in configs/ is valid once its key files exist."""
    path = Path(shutil.copy(CONFIGS / name, tmp_path))
    for key_file in re.findall(r"^\s*(?:key_file|hash_key_file):\s*(\S+)", path.read_text(), re.MULTILINE):
        (tmp_path / key_file).parent.mkdir(exist_ok=True)
        (tmp_path / key_file).touch(mode=0o600)
        (tmp_path / key_file).write_text(KEY)
    result = qlb("check", path)
    assert result.code == 0, result.err


def test_version(qlb: Run) -> None:
    """--version names the program and its version."""
    assert re.fullmatch(r"qlb, version \d+\.\d+\.\d+\n", qlb("--version").out)
