"""Warnings of what the system grants: local ports that QUIC servers drop packets from."""

import logging
from pathlib import Path

import pytest

from qlb.config import load_text
from qlb.control import shortfalls
from qlb.control.shortfalls import REFLECTION_PORTS, Shortfalls, reflection_ports_open
from qlb.dataplane.limits import Limits

SOUND = """\
listen: ["127.0.0.1:4433"]
backends:
  - {name: a, address: "127.0.0.1:5001"}
"""


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of /proc/sys/net/ipv4."""
    monkeypatch.setattr(shortfalls, "_PORTS", tmp_path)
    return tmp_path


def set_ports(system: Path, ports: str, reserved: str) -> None:
    """Write both settings as Linux shows them."""
    (system / "ip_local_port_range").write_text(f"{ports}\n")
    (system / "ip_local_reserved_ports").write_text(f"{reserved}\n")


@pytest.mark.parametrize(
    ("ports", "reserved", "named"),
    [
        ("32768\t60999", "", None),
        ("10240\t65535", "", "11211"),
        ("10240\t65535", "1900,11211", None),
        ("10240\t65535", "8000,11200-11300", None),
        ("10240\t65535", "11212-11300", "11211"),
        ("1024\t65535", "", "1900,3702,5353,5355,11211"),
        ("1024\t65535", "1900-5354", "5355,11211"),
        ("11211\t11211", "", "11211"),
        ("1024\t1899", "", None),
    ],
)
def test_ports_that_servers_drop(system: Path, ports: str, reserved: str, named: str | None) -> None:
    """Those of the range that are not reserved, alone or in a range, are named with what to set."""
    set_ports(system, ports, reserved)
    told = reflection_ports_open()
    if named is None:
        assert told is None
    else:
        assert told is not None
        assert told.startswith(f"sessions may get the local ports {named}, which many QUIC servers drop")
        assert "net.ipv4.ip_local_reserved_ports" in told


@pytest.mark.parametrize("text", ["", "what", "1 2 3"])
def test_a_system_that_does_not_tell(system: Path, text: str) -> None:
    """Without these files, or with others in their place, nothing is known and nothing is told."""
    assert reflection_ports_open() is None
    set_ports(system, text, "")
    assert reflection_ports_open() is None
    set_ports(system, "1024 65535", "x-y")
    assert reflection_ports_open() is None


def test_they_are_told_once(
    system: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the start, not after each reload, and not where the kernel forwards without sessions."""
    monkeypatch.setattr(shortfalls, "read_limits", lambda: Limits(None, None))
    set_ports(system, "10240 65535", "")
    config = load_text(SOUND, tmp_path / "qlb.yaml").config
    one = Shortfalls("batch")
    one.check_sessions(config, 1)
    one.check_sessions(config, 1)
    Shortfalls("xdp").check_sessions(config, 1)
    assert [record.levelno for record in caplog.records if "11211" in record.getMessage()] == [logging.WARNING]


def test_every_port_is_beyond_the_privileged_ones() -> None:
    """No session gets a lower port, so none of those is here."""
    assert min(REFLECTION_PORTS) >= 1024
    assert sorted(REFLECTION_PORTS) == list(REFLECTION_PORTS)
