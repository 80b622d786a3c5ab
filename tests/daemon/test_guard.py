"""What a reload may not do while packets are under way, and what it may."""

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
    """What is known of packets: seconds by name and by config ID."""

    backends: Mapping[str, float] = field(default_factory=dict)
    configs: Mapping[int, float] = field(default_factory=dict)
    unconfigured: Mapping[int, float] = field(default_factory=dict)

    def backend_silence_s(self, name: str) -> float | None:
        """As Live has it."""
        return self.backends.get(name)

    def config_silence_s(self, config_id: int) -> float | None:
        """As Live has it."""
        return self.configs.get(config_id)

    def unconfigured_silence_s(self, config_id: int) -> float | None:
        """As Live has it."""
        return self.unconfigured.get(config_id)


EVERYTHING = Silences({"a": 1.0, "b": 1.0}, {1: 1.0, 2: 1.0})


def read(*changes: tuple[str, str]) -> Config:
    """Return TEXT with changes, as a configuration."""
    text = TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return load_text(text, Path("qlb.yaml")).config


def against(*changes: tuple[str, str], live: Silences = EVERYTHING, former: Mapping[int, str] | None = None) -> str:
    """Return all objections against TEXT with changes."""
    return "\n".join(one.text for one in objections(read(), read(*changes), former or {}, live))


def test_what_hurts_nobody() -> None:
    """Nothing changed; a backend more, others' weights and states, another config: no objection at any traffic."""
    assert against() == ""
    assert against((B, B + B.replace("b", "c").replace("0b", "0c"))) == ""
    assert against((B, B.replace("}}", "}, weight: 7, state: draining}"))) == ""
    assert against((SECOND, SECOND + SECOND.replace("config_id: 2", "config_id: 3"))) == ""
    assert against(("60s", "1s"), ("600s", "1s")) == ""


@pytest.mark.parametrize(("silence_s", "refused"), [(0.0, True), (59.9, True), (60.0, False), (None, False)])
def test_a_backend_that_gets_packets_stays(silence_s: float | None, refused: bool) -> None:
    """It goes when it has been silent for drain.quiet_period or was never heard of; the text says what to do."""
    live = Silences({} if silence_s is None else {"b": silence_s}, {1: 1.0})
    found = against((B, ""), live=live)
    assert bool(found) is refused
    assert not refused or "backend 'b' still gets packets" in found
    assert not refused or "qlb drain b" in found


def test_a_renamed_backend_is_the_same_server() -> None:
    """With its address and all its server IDs; with another address it is another one."""
    assert against(("name: b", "name: bee")) == ""
    assert "backend 'b' still gets" in against(("name: b", "name: bee"), ("5002", "5003"))


def test_a_server_id_stays_with_its_backend() -> None:
    """It is not given to another while packets with it go to its owner; afterwards it is."""
    moved = (B, B.replace("0b0b0b", "0b0b0c"))
    assert "backend 'b' would lose its server ID 0b0b0b of config 1 to nobody" in against(moved)
    swapped = (("0b0b0b", "0c0c0c"), ('1: "0a0a0a"', '1: "0b0b0b"'))
    assert "0b0b0b of config 1 to 'a'" in against(*swapped)
    assert against(moved, live=Silences({"b": 61.0}, {1: 1.0})) == ""
    assert against(moved, live=Silences({"b": 1.0}, {1: 601.0})) == ""


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
    """Whatever makes it decode otherwise is refused while packets carry its ID."""
    assert "packets still carry config ID 1" in against((old, new))
    assert against((old, new), live=Silences({"a": 1.0}, {1: 600.0, 2: 1.0})) == ""


def test_a_live_config_is_not_removed() -> None:
    """Not before rotation.quiet_period is over."""
    gone = ((SECOND, ""), (', 2: "0a0a0a"', ""))
    assert "packets still carry config ID 2" in against(*gone)
    assert "600 s of silence" in against(*gone)
    assert against(*gone, live=Silences({"a": 1.0}, {1: 1.0, 2: 600.0})) == ""


def test_a_config_id_is_not_used_again_while_packets_carry_it() -> None:
    """Another key under an ID that was removed; the same one may come back, and so may an ID that was never here."""
    added = (SECOND, SECOND + SECOND.replace("config_id: 2", "config_id: 3"))
    own = next(p.fingerprint for p in build.cid_params(read(added)) if p.config_id == 3)
    carried = Silences(unconfigured={3: 5.0})
    assert "packets still carry config ID 3 as it was before" in against(added, live=carried, former={3: "00000000"})
    assert "config ID 3" in against(added, live=Silences(configs={3: 5.0}), former={3: "00000000"})
    assert against(added, live=carried, former={3: own}) == ""
    assert against(added, live=carried) == ""
    assert against(added, live=Silences(unconfigured={3: 600.0}), former={3: "00000000"}) == ""


def test_every_objection_is_told() -> None:
    """All at once, and none shows a key."""
    found = against((B, ""), (', 2: "0a0a0a"', ""), (SECOND, ""), ("key: 00", "key: ff"))
    assert [line.split("(")[0].strip() for line in found.splitlines()] == [
        "backend 'b' still gets packets",
        "packets still carry config ID 1",
        "packets still carry config ID 2",
    ]
    assert "0102030405" not in found
