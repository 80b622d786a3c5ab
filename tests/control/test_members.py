"""Who belongs to the pool besides the configuration's own: what has left drains until it is quiet."""

import json

import pytest

from qlb.cid import CidParams
from qlb.control.members import Members
from qlb.routing.backends import Backend, BackendState, Endpoint

KEY = bytes(16)
PARAMS = (CidParams(1, 2, 6, KEY), CidParams(2, 5, 6, KEY))


def found(*hosts: str, ids: dict[int, tuple[bytes, ...]] | None = None) -> list[Backend]:
    """Return backends as a source finds them."""
    return [Backend(f"pool-{host}", Endpoint(host, 4433), ids or {}) for host in hosts]


def names(members: Members, own: list[Backend] | None = None) -> dict[str, str]:
    """Return name → state of everybody."""
    return {one.name: str(one.state) for one in members.merged(own or [], PARAMS)}


def test_what_leaves_drains_until_it_is_quiet() -> None:
    """And goes then, and not before; one that no packet ever went to goes at once."""
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


def test_what_comes_back_is_active() -> None:
    """As if nothing had been."""
    members = Members()
    for hosts in (("10.0.0.1", "10.0.0.2"), ("10.0.0.2",), ("10.0.0.1", "10.0.0.2")):
        members.found("pool", found(*hosts))
    assert names(members) == {"pool-10.0.0.1": "active", "pool-10.0.0.2": "active"}
    assert not members.sweep(lambda _: None, 0.0)


def test_server_ids_of_addresses() -> None:
    """Under every configuration that there is now, those of leaving ones too, and when the source itself has gone."""
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
    """A file's IDs of a configuration that has gone, or has another length now, are left out."""
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
    """A name or a server ID of its own is nobody else's; a warning tells, once."""
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


def test_a_new_one_may_have_the_server_id_of_one_that_leaves() -> None:
    """The one that is there is the one that packets reach."""
    members = Members()
    members.found("pool", found("10.0.0.1", ids={1: (b"ab",)}))
    members.found("pool", found("10.0.0.2", ids={1: (b"ab",)}))
    assert names(members) == {"pool-10.0.0.2": "active"}


def test_another_process_goes_on() -> None:
    """With who was there and who was leaving, until sources answer."""
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
def test_nonsense_of_another_process(nonsense: dict[str, object]) -> None:
    """It is refused as a whole, and nothing worse."""
    with pytest.raises(ValueError, match="Error"):
        Members().recall(nonsense)
