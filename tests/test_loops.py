"""Backends with an address of the daemon itself: they are found by address and port, only if packets would loop."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from qlb.addresses import Endpoint
from qlb.config.load import load
from qlb.config.names import endpoint
from qlb.errors import ConfigError
from qlb.local_addresses import find_loops

LISTEN = endpoint(service=True)
OWN = frozenset(("10.0.0.1", "2001:db8::1", "fe80::1%eth0"))


def local(hosts: Iterable[str]) -> frozenset[str]:
    """Return the addresses of a machine that has three."""
    return OWN & frozenset(hosts)


@pytest.mark.parametrize(
    ("backend", "listen", "loops"),
    [
        ("10.0.0.1:4433", ["10.0.0.1:4433"], True),
        ("10.0.0.9:4433", ["10.0.0.9:4433"], True),
        ("10.0.0.1:4433", ["0.0.0.0:4433"], True),
        ("10.0.0.1:4433", ["127.0.0.1:4433", "0.0.0.0:4433"], True),
        ("127.0.0.9:4433", ["0.0.0.0:4433"], True),
        ("[::1]:4433", ["[::]:4433"], True),
        ("[2001:db8::1]:4433", ["[::]:4433"], True),
        ("[fe80::1%eth0]:4433", ["[::]:4433"], True),
        ("[::ffff:10.0.0.1]:4433", ["0.0.0.0:4433"], True),
        ("10.0.0.1:4433", ["[::ffff:0.0.0.0]:4433"], True),
        ("[::ffff:10.0.0.9]:4433", ["10.0.0.9:4433"], True),
        ("10.0.0.1:5001", ["0.0.0.0:4433"], False),
        ("127.0.0.1:5001", ["127.0.0.1:4433", "0.0.0.0:4434"], False),
        ("10.0.0.1:4433", ["127.0.0.1:4433"], False),
        ("10.0.0.1:4433", ["[::]:4433"], False),
        ("[2001:db8::1]:4433", ["0.0.0.0:4433"], False),
        ("[fe80::1%eth1]:4433", ["[::]:4433"], False),
        ("10.0.0.2:4433", ["0.0.0.0:4433", "[::]:4433"], False),
        ("10.0.0.1:4433", ["0.0.0.0:0"], False),
    ],
)
def test_loops(backend: str, listen: list[str], loops: bool) -> None:
    """A loop needs the listener's port and its address, or at a wildcard any local address of its family."""
    place = endpoint(service=False).parse(backend)
    assert bool(find_loops([place], [LISTEN.parse(one) for one in listen], local)) is loops


def test_each_backend_address_leads_to_a_listener() -> None:
    """Each result names its listener, and only doubtful addresses are looked up, once."""
    asked: list[str] = []

    def find(hosts: Iterable[str]) -> frozenset[str]:
        asked.extend(hosts)
        return local(asked)

    backends = [Endpoint(f"10.0.0.{number}", 4433) for number in range(4)] + [Endpoint("127.0.0.1", 4433)]
    wildcard, named = Endpoint("0.0.0.0", 4433), Endpoint("10.0.0.2", 4433)
    loops = find_loops(backends, [wildcard, named], find)
    assert loops == {backends[1]: wildcard, backends[2]: named, backends[4]: wildcard}
    assert asked == ["10.0.0.0", "10.0.0.1", "10.0.0.3"]


TEXT = """\
listen: ["0.0.0.0:4433"]
backends:
  - {name: a, address: "10.0.0.2:4433"}
  - {name: b, address: "10.0.0.1:4433"}
  - {name: c, address: "[::ffff:10.0.0.1]:4433"}
  - {name: d, address: "10.0.0.1:4434"}
"""


def test_a_configuration_that_loops_is_refused_where_it_is_to_run(tmp_path: Path) -> None:
    """A loop is a problem on the machine that runs the configuration, and valid elsewhere."""
    path = tmp_path / "qlb.yaml"
    path.write_text(TEXT)
    load(path)
    with pytest.raises(ConfigError) as caught:
        load(path, find_local=local)
    text = (
        "address 10.0.0.1:4433 is the balancer itself (listen 0.0.0.0:4433, which is every address of this machine): "
        "packets would loop; give the server another port"
    )
    assert caught.value.problems == (f"{path}:4:24: backends[1].{text}", f"{path}:5:24: backends[2].{text}")
