"""Members of the pool that are not in the configuration. A removed one drains until it gets no packets."""

import json

import pytest

from qlb.addresses import Endpoint
from qlb.cid import CidParams
from qlb.daemon.members import Members
from qlb.routing.backends import Backend, BackendState

KEY = bytes(16)
PARAMS = (CidParams(1, 2, 6, KEY), CidParams(2, 5, 6, KEY))


def found(*hosts: str, ids: dict[int, tuple[bytes, ...]] | None = None) -> list[Backend]:
    """Return backends as a source finds them."""
    return [Backend(f"pool-{host}", Endpoint(host, 4433), ids or {}) for host in hosts]


def names(members: Members, own: list[Backend] | None = None) -> dict[str, str]:
    """Return name → state of all members."""
    return {one.name: str(one.state) for one in members.merged(own or [], PARAMS)}


def test_a_removed_backend_drains_until_it_is_quiet() -> None:
    """A backend without a source drains until it is silent. If it never got a packet, it is deleted at once."""
    members, silence_s = Members(), {"pool-10.0.0.1": 3.0, "pool-10.0.0.2": None}
    members.found("pool", found("10.0.0.1", "10.0.0.2", "10.0.0.3"))
    members.found("pool", found("10.0.0.3"))
    assert names(members) == {
        "pool-10.0.0.3": "active",
        "pool-10.0.0.1": "draining",
        "pool-10.0.0.2": "draining",
    }
    assert members.sweep(silence_s.get, 60.0)
    assert names(members) == {"pool-10.0.0.3": "active", "pool-10.0.0.1": "draining"}
    assert not members.sweep(silence_s.get, 60.0)
    silence_s["pool-10.0.0.1"] = 60.0
    assert members.sweep(silence_s.get, 60.0)
    assert names(members) == {"pool-10.0.0.3": "active"}


def test_a_backend_that_returns_is_active() -> None:
    """A backend that returns while it drains is active again."""
    members = Members()
    for hosts in (("10.0.0.1", "10.0.0.2"), ("10.0.0.2",), ("10.0.0.1", "10.0.0.2")):
        members.found("pool", found(*hosts))
    assert names(members) == {"pool-10.0.0.1": "active", "pool-10.0.0.2": "active"}
    assert not members.sweep(lambda _: None, 0.0)


def test_server_ids_of_addresses() -> None:
    """Server IDs follow the current CID configs. A draining backend retains its IDs, even if its source was removed."""
    members = Members()
    members.follow({"pool": True})
    members.found("pool", found("10.0.7.1"))
    wanted = {1: (bytes((7, 1)),), 2: (bytes((0, 10, 0, 7, 1)),)}
    assert members.merged([], PARAMS)[0].server_ids == wanted
    members.follow({})
    (left,) = members.merged([], PARAMS)
    assert (left.server_ids, left.state) == (wanted, BackendState.DRAINING)
    assert members.merged([], PARAMS[:1])[0].server_ids == {1: wanted[1]}


def test_server_ids_that_no_configuration_decodes() -> None:
    """A server ID of a removed CID config, or of the wrong length, is ignored."""
    members = Members()
    members.found("pool", found("10.0.0.1", ids={1: (b"ab", b"abc"), 2: (b"ab",), 3: (b"cd",)}))
    assert members.merged([], PARAMS)[0].server_ids == {1: (b"ab",)}


@pytest.mark.parametrize(
    "own",
    [
        Backend("pool-10.0.0.1", Endpoint("10.9.9.9", 1)),
        Backend("own", Endpoint("10.9.9.9", 1), {1: (b"ab",)}),
    ],
)
def test_the_configuration_wins(own: Backend, caplog: pytest.LogCaptureFixture) -> None:
    """A discovered backend with a name or server ID of the configuration is ignored, with one warning."""
    members = Members()
    members.found("pool", found("10.0.0.1", ids={1: (b"ab",)}))
    for _ in range(2):
        assert list(names(members, [own])) == [own.name]
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "a discovered backend has the name or a server ID of another one"
    ]
    assert members.source_of(own.name) is None
    assert list(names(members)) == ["pool-10.0.0.1"]
    assert members.source_of("pool-10.0.0.1") == "pool"


def test_a_new_backend_may_have_the_server_id_of_a_draining_one() -> None:
    """A new backend may have the server ID of a draining one, which is then ignored."""
    members = Members()
    members.found("pool", found("10.0.0.1", ids={1: (b"ab",)}))
    members.found("pool", found("10.0.0.2", ids={1: (b"ab",)}))
    assert names(members) == {"pool-10.0.0.2": "active"}


def test_the_new_process_knows_the_members() -> None:
    """The new process starts with the members of the old one, draining ones included, until sources answer."""
    before = Members()
    before.follow({"pool": True, "file": False})
    before.found("pool", found("10.0.0.1", "10.0.0.2"))
    before.found("pool", found("10.0.0.2"))
    before.found("file", found("10.0.0.7", ids={1: (b"xy",)}))
    after = Members()
    after.recall(json.loads(json.dumps(before.remembered())))
    after.follow({"pool": True, "file": False})
    assert after.merged([], PARAMS) == before.merged([], PARAMS)
    assert len(after.merged([], PARAMS)) == 3


@pytest.mark.parametrize(
    "nonsense", [{"pool": 1}, {"pool": {}}, {"pool": {"present": [{}], "leaving": []}}, {"a": "b"}]
)
def test_an_invalid_memory(nonsense: dict[str, object]) -> None:
    """An invalid memory is refused as a whole, with a ValueError."""
    with pytest.raises(ValueError, match="Error"):
        Members().recall(nonsense)


def at(*ports: int, host: str = "10.0.7.1", source: str = "pool") -> list[Backend]:
    """Return backends with these ports on one host."""
    return [Backend(f"{source}-{host}:{port}", Endpoint(host, port)) for port in ports]


def with_ids(members: Members, own: list[Backend] | None = None) -> dict[str, bool]:
    """Return by port, or by name, whether each backend has server IDs."""
    return {one.name.partition(":")[2]: bool(one.server_ids) for one in members.merged(own or [], PARAMS)}


def test_several_ports_on_one_address(caplog: pytest.LogCaptureFixture) -> None:
    """Of several ports on one address, only the first gets the address's server ID. One warning names the others."""
    members = Members()
    members.follow({"pool": True})
    members.found("pool", at(4001, 4002, 4003))
    for _ in range(2):
        assert with_ids(members) == {"4001": True, "4002": False, "4003": False}
    assert {members.source_of(one.name) for one in at(4001, 4002, 4003)} == {"pool"}
    (record,) = (record for record in caplog.records if record.levelname == "WARNING")
    assert record.message.startswith("backends without a server ID: another port of their address has it")
    assert (record.backends, record.count) == ("pool-10.0.7.1:4002, pool-10.0.7.1:4003", 2)  # type: ignore[attr-defined]


def test_a_server_id_stays_with_the_port_that_has_it() -> None:
    """A port retains its server ID while its connections may live. After that, the first port gets the ID."""
    members = Members()
    members.follow({"pool": True})
    members.found("pool", at(4002, 4003))
    assert with_ids(members) == {"4002": True, "4003": False}
    members.found("pool", at(4001, 4002, 4003))
    assert with_ids(members) == {"4001": False, "4002": True, "4003": False}
    members.found("pool", at(4001, 4003))
    assert with_ids(members) == {"4001": False, "4003": False, "4002": True}
    assert members.sweep(lambda _: None, 1.0)
    assert with_ids(members) == {"4001": True, "4003": False}


def test_another_port_beside_one_of_the_configuration() -> None:
    """A discovered port beside a configured one serves without a server ID. The same port is ignored."""
    own = [Backend("own:own", Endpoint("10.0.7.1", 4001), {1: (bytes((7, 1)),)})]
    members = Members()
    members.follow({"pool": True})
    members.found("pool", at(4001, 4002))
    assert with_ids(members, own) == {"own": True, "4002": False}


def test_two_sources_that_find_the_same_endpoint() -> None:
    """An address and port that two sources find is one backend."""
    members = Members()
    members.follow({"pool": True, "other": True})
    members.found("pool", at(4001))
    members.found("other", at(4001, source="other"))
    assert [one.name for one in members.merged([], PARAMS)] == ["other-10.0.7.1:4001"]


def test_a_server_with_two_addresses_has_the_ids_of_both() -> None:
    """A server with two addresses has the IDs of both, because it may use either. The new process knows both too."""
    before = Members()
    before.follow({"pool": True})
    before.found("pool", [Backend("pool-a", Endpoint("10.0.7.1", 4433), other_hosts=("2001:db8::5",))])
    after = Members()
    after.recall(json.loads(json.dumps(before.remembered())))
    for members in (before, after):
        (backend,) = members.merged([], PARAMS[:1])
        assert backend.server_ids == {1: (bytes((7, 1)), bytes((0, 5)))}


def test_the_memory_of_an_older_release() -> None:
    """A memory from an older release has no further addresses. IPv4-mapped addresses in it are read as IPv4."""
    row = {"name": "a", "host": "::ffff:10.0.0.1", "port": 1, "weight": 1, "state": "active", "server_ids": {}}
    members = Members()
    members.recall({"pool": {"from_address": False, "present": [row], "leaving": []}})
    assert members.merged([], PARAMS) == (Backend("a", Endpoint("10.0.0.1", 1)),)
