"""The objections to a reload while packets are in transit, and the changes without objections."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from qlb.config import build
from qlb.config.load import load_text
from qlb.config.model import Config
from qlb.daemon.guard import objections

TEXT = """
listen: ["127.0.0.1:4433"]
drain: {quiet_period: 60s}
rotation: {quiet_period: 600s}
cid_configs:
  - {config_id: 1, server_id_length: 3, nonce_length: 13, key: 000102030405060708090a0b0c0d0e0f}
  - {config_id: 2, server_id_length: 3, nonce_length: 13, key: 100102030405060708090a0b0c0d0e0f}
backends:
  - {name: a, address: "127.0.0.1:5001", server_ids: {1: "0a0a0a", 2: "0a0a0a"}}
  - {name: b, address: "127.0.0.1:5002", server_ids: {1: "0b0b0b"}}
"""
FIRST = "  - {config_id: 1, server_id_length: 3, nonce_length: 13, key: 000102030405060708090a0b0c0d0e0f}\n"
SECOND = "  - {config_id: 2, server_id_length: 3, nonce_length: 13, key: 100102030405060708090a0b0c0d0e0f}\n"
B = '  - {name: b, address: "127.0.0.1:5002", server_ids: {1: "0b0b0b"}}\n'


@dataclass
class Silences:
    """The time since the last packet, in seconds, by backend name and by config ID."""

    backends: Mapping[str, float] = field(default_factory=dict)
    configs: Mapping[int, float] = field(default_factory=dict)
    unconfigured: Mapping[int, float] = field(default_factory=dict)

    def backend_silence_s(self, name: str) -> float | None:
        """Return the silence of a backend, as in the protocol Live."""
        return self.backends.get(name)

    def config_silence_s(self, config_id: int) -> float | None:
        """Return the silence of a CID config, as in the protocol Live."""
        return self.configs.get(config_id)

    def unconfigured_silence_s(self, config_id: int) -> float | None:
        """Return the silence of a config ID without a CID config, as in the protocol Live."""
        return self.unconfigured.get(config_id)


EVERYTHING = Silences({"a": 1.0, "b": 1.0}, {1: 1.0, 2: 1.0})


def read(*changes: tuple[str, str]) -> Config:
    """Return the configuration TEXT with changes."""
    text = TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return load_text(text, Path("qlb.yaml")).config


def objections_to(
    *changes: tuple[str, str], live: Silences = EVERYTHING, former: Mapping[int, str] | None = None
) -> str:
    """Return the objections to replacing TEXT by TEXT with changes."""
    return "\n".join(one.text for one in objections(read(), read(*changes), former or {}, live))


def test_harmless_changes() -> None:
    """Adding a backend or a CID config and changing weights, states or quiet periods raise no objection."""
    assert objections_to() == ""
    assert objections_to((B, B + B.replace("b", "c").replace("0b", "0c"))) == ""
    assert objections_to((B, B.replace("}}", "}, weight: 7, state: draining}"))) == ""
    assert objections_to((SECOND, SECOND + SECOND.replace("config_id: 2", "config_id: 3"))) == ""
    assert objections_to(("60s", "1s"), ("600s", "1s")) == ""


@pytest.mark.parametrize(("silence_s", "refused"), [(0.0, True), (59.9, True), (60.0, False), (None, False)])
def test_a_backend_that_gets_packets_stays(silence_s: float | None, refused: bool) -> None:
    """A backend can be removed after drain.quiet_period without packets. The refusal has advice."""
    live = Silences({} if silence_s is None else {"b": silence_s}, {1: 1.0})
    found = objections_to((B, ""), live=live)
    assert bool(found) is refused
    assert not refused or "backend 'b' still gets packets" in found
    assert not refused or "qlb drain b" in found


def test_a_renamed_backend_is_the_same_server() -> None:
    """A new name with the same address and server IDs is the same server. With another address it is not."""
    assert objections_to(("name: b", "name: bee")) == ""
    assert "backend 'b' still gets" in objections_to(("name: b", "name: bee"), ("5002", "5003"))


def test_a_server_id_stays_with_its_backend() -> None:
    """A server ID cannot be removed from a backend or given to another one while packets carry it."""
    moved = (B, B.replace("0b0b0b", "0b0b0c"))
    assert "backend 'b' would lose its server ID 0b0b0b of config 1 while it gets packets" in objections_to(moved)
    swapped = (("0b0b0b", "0c0c0c"), ('1: "0a0a0a"', '1: "0b0b0b"'))
    assert "0b0b0b of config 1 to 'a'" in objections_to(*swapped)
    assert objections_to(moved, live=Silences({"b": 61.0}, {1: 1.0})) == ""
    assert objections_to(moved, live=Silences({"b": 1.0}, {1: 601.0})) == ""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("key: 00", "key: ff"),
        (", key: 000102030405060708090a0b0c0d0e0f", ""),
        ("nonce_length: 13, key: 00", "nonce_length: 12, key: 00"),
        ("config_id: 1,", "config_id: 1, length_self_encoded: true,"),
    ],
)
def test_a_live_config_keeps_its_key_and_lengths(old: str, new: str) -> None:
    """A change that alters decoding is refused while packets carry the config ID."""
    assert "packets still carry config ID 1" in objections_to((old, new))
    assert objections_to((old, new), live=Silences({"a": 1.0}, {1: 600.0, 2: 1.0})) == ""


def test_a_live_config_is_not_removed() -> None:
    """A CID config cannot be removed before rotation.quiet_period is over."""
    gone = ((SECOND, ""), (', 2: "0a0a0a"', ""))
    assert "packets still carry config ID 2" in objections_to(*gone)
    assert "600 s of silence" in objections_to(*gone)
    assert objections_to(*gone, live=Silences({"a": 1.0}, {1: 1.0, 2: 600.0})) == ""


def test_a_config_id_is_not_used_again_while_packets_carry_it() -> None:
    """A config ID cannot return with another key while packets carry it. The same key, or a new ID, is allowed."""
    added = (SECOND, SECOND + SECOND.replace("config_id: 2", "config_id: 3"))
    own = next(p.fingerprint for p in build.cid_params(read(added)) if p.config_id == 3)
    carried = Silences(unconfigured={3: 5.0})
    assert "packets still carry config ID 3 as it was before" in objections_to(
        added, live=carried, former={3: "00000000"}
    )
    assert "config ID 3" in objections_to(added, live=Silences(configs={3: 5.0}), former={3: "00000000"})
    assert objections_to(added, live=carried, former={3: own}) == ""
    assert objections_to(added, live=carried) == ""
    assert objections_to(added, live=Silences(unconfigured={3: 600.0}), former={3: "00000000"}) == ""


def test_every_objection_is_returned() -> None:
    """All objections are returned at once, and none contains a key."""
    found = objections_to((B, ""), (', 2: "0a0a0a"', ""), (SECOND, ""), ("key: 00", "key: ff"))
    assert [line.split("(")[0].strip() for line in found.splitlines()] == [
        "backend 'b' still gets packets",
        "packets still carry config ID 1",
        "packets still carry config ID 2",
    ]
    assert "0102030405" not in found
