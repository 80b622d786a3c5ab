"""The copy of a configuration on free ports, with which `qlb demo` runs beside another daemon."""

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from qlb.addresses import Endpoint
from qlb.config.load import load
from qlb.demo import free_ports
from qlb.demo.free_ports import move_to_free_ports
from qlb.errors import BackendError, ConfigError

NOWHERE = Endpoint("192.0.2.1", 1)
TEXT = """\
listen: ["203.0.113.1:443", "[::]:443", "0.0.0.0:443"]
cid_configs:
  - {config_id: 1, server_id_length: 3, nonce_length: 13, key_file: keys/1.hex}
  - {config_id: 2, server_id_length: 3, nonce_length: 13, key: 000102030405060708090a0b0c0d0e0f}
backends:
  - {name: 1e3, address: "10.0.0.1:443", server_ids: {1: 010203, 2: "1e3000"}, weight: 3}
  - {name: b, address: "[2001:db8::2]:443"}
discovery:
  - {name: spot, file: spot.yaml}
fallback: {hash_key_file: keys/2.hex}
"""


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """Write a configuration with its key files; return its path."""
    folder = tmp_path / "etc"
    (folder / "keys").mkdir(parents=True)
    for number in (1, 2):
        (folder / f"keys/{number}.hex").touch(mode=0o600)
        (folder / f"keys/{number}.hex").write_text(f"{number:032x}")
    (folder / "qlb.yaml").write_text(TEXT)
    return folder / "qlb.yaml"


def test_only_addresses_differ(original: Path, tmp_path: Path) -> None:
    """Every address is a free port of the loopback interface. IDs, keys, weights and files are the same."""
    copy = move_to_free_ports(original, tmp_path)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    before, after = load(original).config, load(copy).config
    addresses = [*after.listen, *(backend.address for backend in after.backends)]
    assert [address.host for address in addresses] == ["127.0.0.1", "::1", "127.0.0.1", "127.0.0.1", "::1"]
    assert len({address.port for address in addresses}) == 5
    assert all(20_000 <= address.port < 32_000 for address in addresses)
    assert (after.admin.listen, after.admin.socket) == (None, "none")
    assert after.cid_configs == before.cid_configs
    assert [replace(one, address=NOWHERE) for one in after.backends] == [
        replace(one, address=NOWHERE) for one in before.backends
    ]
    assert after.discovery == before.discovery
    assert after.fallback.hash_key == before.fallback.hash_key


def test_no_free_port(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no port is free, the error names the ports that were tried."""
    monkeypatch.setattr(free_ports, "_PORTS", 4)
    with pytest.raises(BackendError, match=r"no UDP port of .* from 20000 to 20003 is free"):
        move_to_free_ports(original, tmp_path)


def test_the_smallest_configuration(tmp_path: Path) -> None:
    """Sections that are missing, or empty, are no fault."""
    path = tmp_path / "a.yaml"
    path.write_text("listen: ['127.0.0.1:1']\nbackends: [{name: a, address: '127.0.0.1:2'}]\nfallback:\ndiscovery:\n")
    (tmp_path / "b").mkdir()
    assert load(move_to_free_ports(path, tmp_path / "b")).config.backends[0].name == "a"


def test_a_wrong_configuration(tmp_path: Path) -> None:
    """A wrong configuration is an error that names the original file, and nothing is written."""
    path = tmp_path / "a.yaml"
    path.write_text("listen: []\n")
    with pytest.raises(ConfigError, match=r"a\.yaml:1:"):
        move_to_free_ports(path, tmp_path / "b")
