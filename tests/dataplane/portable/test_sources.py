"""Sources that no client can have, and when the machine's addresses are looked up."""

import sys

import pytest

from qlb.dataplane.portable.admission import Service, Sources
from qlb.local_addresses import own_hosts


@pytest.mark.parametrize(
    ("host", "port", "bad"),
    [
        ("192.0.2.1", 4433, True),
        ("::ffff:192.0.2.1", 4433, True),
        ("192.0.2.1", 4434, False),
        ("192.0.2.2", 4433, False),
        ("192.0.2.2", 0, True),
        ("0.0.0.0", 1, True),
        ("::", 1, True),
        ("::ffff:0.0.0.0", 1, True),
        ("2001:db8::1", 4433, False),
    ],
)
def test_named_services(host: str, port: int, bad: bool) -> None:
    """Only the exact service, port 0 and unspecified hosts are bad sources, without a look-up."""
    sources = Sources(iter([Service("192.0.2.1", 4433)]), pytest.fail)
    assert sources.is_bad(host, port, "192.0.2.1", 0.0) == bad


def test_the_machines_addresses_are_looked_up_once_a_second_and_only_for_the_services_port() -> None:
    """A flood with the service's port causes one look-up a second; packets from other ports cause none."""
    looked_up: list[frozenset[str]] = []

    def find() -> frozenset[str]:
        looked_up.append(frozenset({"192.0.2.7", "2001:db8::7"} if len(looked_up) else {"192.0.2.1"}))
        return looked_up[-1]

    sources = Sources(iter([Service("0.0.0.0", 4433), Service("::", 4433)]), find)
    assert not sources.is_bad("192.0.2.7", 4434, "192.0.2.1", 0.0)
    assert sources.is_bad("192.0.2.1", 4433, "192.0.2.1", 0.0), "the address that it was sent to"
    assert sources.is_bad("fe80::1", 4433, "fe80::1%3", 0.0), "on any interface"
    assert looked_up == []
    for now_s, bad in ((10.0, False), (10.9, False), (11.1, True), (11.2, True)):
        assert sources.is_bad("192.0.2.7", 4433, "192.0.2.1", now_s) == bad
    assert sources.is_bad("2001:db8::7", 4433, "2001:db8::1", 11.3)
    assert len(looked_up) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="own_hosts() works only on Linux")
def test_own_hosts() -> None:
    """The machine's addresses contain the loopback address."""
    assert "127.0.0.1" in own_hosts()
