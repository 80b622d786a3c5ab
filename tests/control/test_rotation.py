"""The judgements of a rotation: its phase, which config ID is free, and what speaks against a step."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from qlb.config.build import cid_params
from qlb.config.load import load_text
from qlb.config.model import Config
from qlb.control.rotation import (
    Balancer,
    Seen,
    against_issuing,
    against_removing,
    choose_config_id,
    read_balancer,
    read_parts,
    read_rotation,
)
from qlb.errors import QlbError

QUIET_S = 60.0


@pytest.mark.parametrize(
    ("configs", "phase", "old", "new"),
    [
        ([], "idle", None, None),
        ([Seen(1, "active", 0.0)], "idle", None, None),
        ([Seen(1, "active", 0.0), Seen(2, "staged", 900.0)], "staged", 1, 2),
        ([Seen(2, "staged", 900.0)], "staged", None, 2),
        ([Seen(1, "retiring", 59.0), Seen(2, "active", 0.0)], "retiring", 1, 2),
        ([Seen(1, "retiring", 60.0), Seen(2, "active", 0.0)], "done", 1, 2),
        ([Seen(1, "retiring", 99.0), Seen(3, "retiring", 5.0), Seen(2, "active", 0.0)], "retiring", 3, 2),
        ([Seen(1, "retiring", 0.0), Seen(2, "active", 0.0), Seen(3, "staged", 0.0)], "staged", 2, 3),
    ],
)
def test_phases(configs: list[Seen], phase: str, old: int | None, new: int | None) -> None:
    """What is staged comes first; of several that retire, the one that was heard last."""
    found = read_rotation(configs, QUIET_S)
    assert (found.phase, found.from_config_id, found.to_config_id) == (phase, old, new)
    assert bool(found.next_step) is (phase != "idle")


def config(*states: str, backends: str = "") -> Config:
    """Return a configuration with configs 1, 2, … in these states, and all backends under all of them."""
    ids = ", ".join(f'{number}: "0a0a0a0{number}"' for number in range(1, len(states) + 1))
    text = f"""
listen: ["127.0.0.1:4433"]
rotation: {{quiet_period: {QUIET_S}s}}
cid_configs: [{", ".join(_written(n, state) for n, state in enumerate(states, start=1))}]
backends: [{backends or f'{{name: a, address: "127.0.0.1:5001", server_ids: {{{ids}}}}}'}]
"""
    return load_text(text, Path("qlb.yaml")).config


def _written(config_id: int, state: str) -> str:
    return f"{{config_id: {config_id}, server_id_length: 4, nonce_length: 8, key: {config_id:032x}, state: {state}}}"


def balancer(name: str, *configs: Seen, unconfigured: dict[int, float] | None = None) -> Balancer:
    """Return what a balancer says of itself."""
    return Balancer(name, {seen.config_id: seen for seen in configs}, unconfigured or {})


@pytest.mark.parametrize(
    ("balancers", "chosen"),
    [
        ([], 2),
        ([balancer("x", Seen(2, "active", 999.0))], 3),
        ([balancer("x"), balancer("y", Seen(2, "active", 0.0), unconfigured={3: 59.0, 4: 60.0})], 4),
        ([balancer("x", unconfigured=dict.fromkeys((2, 3, 4, 5, 6), 0.0))], 0),
    ],
)
def test_a_config_id_that_nobody_uses(balancers: Sequence[Balancer], chosen: int) -> None:
    """Not in this file, on no balancer, and carried by no packet lately; 0 only where there is no other."""
    assert choose_config_id(config("active"), balancers) == chosen


def test_no_config_id_is_left() -> None:
    """Then one has to go first."""
    with pytest.raises(QlbError, match="all seven"):
        choose_config_id(config("active"), [balancer("x", unconfigured=dict.fromkeys(range(7), 0.0))])


def test_who_takes_part() -> None:
    """What is staged replaces the active configs of its own backends and of no others."""
    parts = read_parts(config("active", "staged"))
    assert parts.staged is not None
    assert (parts.staged.config_id, [one.config_id for one in parts.old]) == (2, [1])
    pools = ", ".join(
        f'{{name: {name}, address: "127.0.0.1:{port}", server_ids: {{{ids}}}}}'
        for name, port, ids in (("a", 5001, '1: "0a0a0a0a", 3: "0a0a0a0a"'), ("b", 5002, '2: "0b0b0b0b"'))
    )
    parts = read_parts(config("active", "active", "staged", backends=pools))
    assert [one.config_id for one in parts.old] == [1]
    assert [one.config_id for one in read_parts(config("retiring", "active")).retiring] == [1]


@pytest.mark.parametrize(
    ("states", "old_id", "text"),
    [
        (("active", "active"), None, "--config-id must say which of the active configs to replace: 1, 2"),
        (("active",), 4, "--config-id must say which"),
        (("staged", "staged"), None, "configs 1, 2 are staged at once"),
        ((), None, "no cid_configs are active"),
    ],
)
def test_who_takes_part_cannot_be_told(states: tuple[str, ...], old_id: int | None, text: str) -> None:
    """Rather ask than guess."""
    backends = '{name: a, address: "127.0.0.1:5001"}' if not states else ""
    with pytest.raises(QlbError, match=text):
        read_parts(config(*states, backends=backends), old_id)


def test_every_balancer_must_decode_before_servers_issue() -> None:
    """The same key and lengths, on each of them; the text names the one that lags."""
    told = config("active", "staged")
    fingerprint = cid_params(told)[1].fingerprint
    good, other = Seen(2, "staged", 9.0, fingerprint), Seen(2, "staged", 9.0, "00000000")
    assert list(against_issuing(told, told.cid_configs[1], [balancer("x", good), balancer("y", good)])) == []
    problems = list(
        against_issuing(told, told.cid_configs[1], [balancer("x", good), balancer("y"), balancer("z", other)])
    )
    assert ["y does not decode config 2 yet" in problems[0], "z decodes config 2 with another key" in problems[1]] == [
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("first", "second", "problems"),
    [
        (Seen(1, "retiring", 60.0), Seen(2, "active", 0.0, packets=1), []),
        (Seen(1, "retiring", 59.9), Seen(2, "active", 0.0, packets=1), ["x: config 1 has been silent for 59.9 s"]),
        (Seen(1, "retiring", 60.0), Seen(2, "active", 99.0), ["no balancer has seen a packet under config 2 yet"]),
        (Seen(1, "retiring", 0.0), Seen(2, "active", 99.0), ["x: config 1 has been silent", "no balancer has seen"]),
    ],
)
def test_an_old_config_goes_when_nobody_carries_it(first: Seen, second: Seen, problems: list[str]) -> None:
    """On no balancer, for a whole quiet period; and the new one has been seen somewhere."""
    told = config("retiring", "active")
    quiet = balancer("y", Seen(1, "retiring", 100.0), Seen(2, "active", 0.0))
    found = list(against_removing(told, told.cid_configs[0], [balancer("x", first, second), quiet]))
    assert [text.startswith(problem) for text, problem in zip(found, problems, strict=True)] == [True] * len(problems)


def test_a_status_is_read() -> None:
    """What was never seen has been silent since the start; what is no status says so."""
    row = {"config_id": 1, "state": "active", "fingerprint": "ab", "packets": 3, "last_seen_s": None}
    status = {"uptime_s": 7, "cid_configs": [row], "unconfigured_cids": [{"config_id": 4, "last_seen_s": 2.5}]}
    assert read_balancer("x", status) == Balancer("x", {1: Seen(1, "active", 7.0, "ab", 3)}, {4: 2.5})
    for broken in ({}, {**status, "cid_configs": 1}, {**status, "cid_configs": [{"config_id": 1}]}):
        with pytest.raises(QlbError, match="x gives no status"):
            read_balancer("x", broken)
