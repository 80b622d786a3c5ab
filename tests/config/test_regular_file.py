"""Files that an operator names must be regular files; anything else is rejected at once."""

import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from qlb.config.backends_file import read_backends
from qlb.config.load import load, read_regular_file
from qlb.config.model import Config
from qlb.errors import ConfigError

SOUND = "listen: ['127.0.0.1:0']\nbackends: []\n"


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(path))


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _folder(path: Path) -> None:
    path.mkdir()


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse: it uses no disk space


no_file = pytest.mark.parametrize("make", [_pipe, _socket, _device, _folder, _huge])
REFUSED = "not a regular file|is a directory|more than 64 MiB"


def test_the_content_and_the_mode(tmp_path: Path) -> None:
    """The content is returned up to the limit, also through links."""
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    path.chmod(0o640)
    (tmp_path / "link").symlink_to("x")
    content, mode = read_regular_file(tmp_path / "link", 3)
    assert (content, mode & 0o777) == (b"abc", 0o640)
    with pytest.raises(ValueError, match=re.escape("more than 2 octets")):
        read_regular_file(path, 2)


@no_file
def test_a_configuration_that_is_no_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A pipe, a device or a huge file in place of the configuration does not block loading."""
    make(tmp_path / "qlb.yaml")
    with pytest.raises(ConfigError, match=REFUSED):
        load(tmp_path / "qlb.yaml")


@no_file
def test_a_file_of_backends_that_is_no_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """The same applies to a file that discovery watches."""
    path = tmp_path / "qlb.yaml"
    path.write_text(SOUND)
    config: Config = load(path).config
    make(tmp_path / "pool.yaml")
    with pytest.raises(ConfigError, match=REFUSED):
        read_backends(tmp_path / "pool.yaml", config, (), 10)


@no_file
def test_a_key_file_that_is_no_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """The same applies to key files."""
    path = tmp_path / "qlb.yaml"
    path.write_text(SOUND + "fallback: {hash_key_file: key}\n")
    make(tmp_path / "key")
    with pytest.raises(ConfigError, match=r"not a regular file|accessible to every user|more than 4096 octets"):
        load(path)


def test_every_named_file_is_reported_before_it_is_read(tmp_path: Path) -> None:
    """Every named file is reported before it is read, even if the configuration is invalid."""
    path = tmp_path / "qlb.yaml"
    path.write_text(
        SOUND + "fallback: {hash_key_file: ../h.hex}\nhealth: {rise: none}\n"
        "cid_configs: [{config_id: 1, server_id_length: 4, nonce_length: 8, key_file: /k.hex}]\n"
        "discovery:\n  - {name: a, file: pool.yaml}\n"
        "  - {name: b, kubernetes: n/s, kubeconfig: kube, networks: [10.0.0.0/8]}\n"
    )
    named: list[Path] = []
    with pytest.raises(ConfigError):
        load(path, before_reading=named.append)
    assert named == [path, Path("/k.hex"), tmp_path / "../h.hex", tmp_path / "pool.yaml", tmp_path / "kube"]
