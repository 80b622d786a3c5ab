"""The rules of a rotation: its phase, a free config ID, and the objections to a step."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from qlb.config.build import cid_params
from qlb.config.load import load_text
from qlb.config.model import Config
from qlb.errors import QlbError
from qlb.rotation.phases import (
    Balancer,
    Carried,
    Seen,
    against_issuing,
    against_removing,
    against_unstaging,
    choose_config_id,
    read_balancer,
    read_parts,
    read_rotation,
)

QUIET_S = 60.0
STRAY = Carried(0.0, packets=1)
ISSUED = Carried(0.0, packets=600, sustained=True)
HAD = Carried(59.0, packets=1, configured_before=True)
HAD_LONG_AGO = Carried(60.0, packets=1000, configured_before=True)
OLD = Carried(60.0, packets=1000, sustained=True)
REST = dict.fromkeys((3, 4, 5, 6, 0), STRAY)


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
    """A staged CID config determines the phase first. Of several retiring ones, the last one that was seen counts."""
    found = read_rotation(configs, QUIET_S)
    assert (found.phase, found.from_config_id, found.to_config_id) == (phase, old, new)
    assert bool(found.next_step) is (phase != "idle")


def config(*states: str, backends: str = "") -> Config:
    """Return a configuration with CID configs 1, 2, … in these states. Backends have server IDs under all of them."""
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


def balancer(name: str, *configs: Seen, unconfigured: dict[int, Carried] | None = None) -> Balancer:
    """Return the report of a balancer about itself."""
    return Balancer(name, {seen.config_id: seen for seen in configs}, unconfigured or {})


@pytest.mark.parametrize(
    ("balancers", "chosen"),
    [
        ([], 2),
        ([balancer("x", Seen(2, "active", 999.0))], 3),
        ([balancer("x"), balancer("y", Seen(2, "active", 0.0), unconfigured={3: ISSUED, 4: OLD})], 5),
        ([balancer("x", unconfigured={2: HAD, 3: ISSUED, 4: STRAY, 5: HAD_LONG_AGO})], 6),
        ([balancer("x", unconfigured={2: HAD, 3: ISSUED, 4: STRAY, 5: HAD, 6: ISSUED})], 0),
        ([balancer("x", unconfigured={2: HAD, 3: ISSUED, 4: STRAY, 5: HAD, 6: ISSUED, 0: ISSUED})], 4),
        ([balancer("x", unconfigured={2: HAD, 3: ISSUED, 4: HAD, 5: HAD_LONG_AGO, 6: ISSUED, 0: HAD})], 5),
        (
            [
                balancer("x", unconfigured={2: STRAY}),
                balancer("y", unconfigured={2: HAD, **dict.fromkeys(REST, STRAY)}),
            ],
            3,
        ),
    ],
)
def test_a_free_config_id(balancers: Sequence[Balancer], chosen: int) -> None:
    """The chosen config ID is not in this file, not on a balancer, and not in packets of servers.

    ID 0 is chosen only if no other is free. An ID without any stray packet is preferred.
    """
    assert choose_config_id(config("active"), balancers)[0] == chosen


def test_seven_stray_packets_do_not_block() -> None:
    """A single stray packet for each config ID causes only a warning."""
    found, warnings = choose_config_id(config("active"), [balancer("x", unconfigured=dict.fromkeys(range(7), STRAY))])
    assert (found, len(warnings)) == (2, 1)
    assert "x: 1 packets carried config ID 2" in warnings[0]


@pytest.mark.parametrize("carried", ["ISSUED", "HAD"])
def test_no_config_id_is_safe(carried: str) -> None:
    """If servers seem to use every config ID, choosing one needs force, and the reason becomes a warning."""
    evidence = {"ISSUED": ISSUED, "HAD": HAD}[carried]
    balancers = [balancer("x", unconfigured=dict.fromkeys(range(7), evidence))]
    with pytest.raises(QlbError, match=r"(?s)--force uses one.*config ID 2.*config ID 0"):
        choose_config_id(config("active"), balancers)
    found, warnings = choose_config_id(config("active"), balancers, force=True)
    assert (found, ["config ID 2" in warning for warning in warnings]) == (2, [True])


def test_a_config_id_of_the_operators_choice() -> None:
    """A config ID that the operator chooses must be free, and safe or forced. No other ID is considered."""
    balancers = [balancer("x", Seen(5, "active", 0.0), unconfigured={4: ISSUED})]
    assert choose_config_id(config("active"), balancers, 6)[0] == 6
    for configured in (1, 5):
        with pytest.raises(QlbError, match=f"config ID {configured} is configured already"):
            choose_config_id(config("active"), balancers, configured, force=True)
    with pytest.raises(QlbError, match="--force") as refused:
        choose_config_id(config("active"), balancers, 4)
    assert "config ID 3" not in str(refused.value)
    assert choose_config_id(config("active"), balancers, 4, force=True)[0] == 4


def test_no_config_id_is_left() -> None:
    """If all seven config IDs are configured, none is chosen, even with force."""
    balancers = [balancer("x", *(Seen(n, "active", 0.0) for n in range(7)))]
    with pytest.raises(QlbError, match="all seven"):
        choose_config_id(config("active"), balancers, force=True)


@pytest.mark.parametrize(("packets", "refused"), [(0, False), (99, False), (100, True)])
def test_few_packets_do_not_prove_a_server(packets: int, refused: bool) -> None:
    """Removing a staged CID config is refused only if many packets carry it. One packet does not prove a server."""
    parsed = config("active", "staged")
    found = list(against_unstaging(parsed.cid_configs[1], [balancer("x", Seen(2, "staged", 0.0, packets=packets))]))
    assert bool(found) is refused
    assert list(against_unstaging(parsed.cid_configs[1], [balancer("x")])) == []


def test_the_configs_of_a_rotation() -> None:
    """A staged CID config replaces the active ones of its own backends, and no others."""
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
        (("staged", "staged"), None, "configs 1, 2 are staged at the same time"),
        ((), None, "no cid_configs are active"),
    ],
)
def test_ambiguous_configs_of_a_rotation(states: tuple[str, ...], old_id: int | None, text: str) -> None:
    """If the CID configs to rotate are ambiguous, the error asks for --config-id or explains the state."""
    backends = '{name: a, address: "127.0.0.1:5001"}' if not states else ""
    with pytest.raises(QlbError, match=text):
        read_parts(config(*states, backends=backends), old_id)


def test_every_balancer_must_decode_before_servers_issue() -> None:
    """Before servers issue from a CID config, every balancer must have it, with the same key. Others are named."""
    parsed = config("active", "staged")
    fingerprint = cid_params(parsed)[1].fingerprint
    good, other = Seen(2, "staged", 9.0, fingerprint), Seen(2, "staged", 9.0, "00000000")
    assert list(against_issuing(parsed, parsed.cid_configs[1], [balancer("x", good), balancer("y", good)])) == []
    problems = list(
        against_issuing(parsed, parsed.cid_configs[1], [balancer("x", good), balancer("y"), balancer("z", other)])
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
def test_an_old_config_is_removed_when_no_packet_carries_it(first: Seen, second: Seen, problems: list[str]) -> None:
    """A CID config is removed after a quiet period on every balancer, if the new one has been seen on one of them."""
    parsed = config("retiring", "active")
    quiet = balancer("y", Seen(1, "retiring", 100.0), Seen(2, "active", 0.0))
    found = list(against_removing(parsed, parsed.cid_configs[0], [balancer("x", first, second), quiet]))
    assert [text.startswith(problem) for text, problem in zip(found, problems, strict=True)] == [True] * len(problems)


def test_a_status_is_read() -> None:
    """A CID config that was never seen has been silent since the start. Invalid statuses are refused."""
    row = {"config_id": 1, "state": "active", "fingerprint": "ab", "packets": 3, "last_seen_s": None}
    others = [
        {"config_id": 4, "packets": 9, "last_seen_s": 2.5, "sustained": False, "configured_before": True},
        {"config_id": 5, "packets": 8, "last_seen_s": None, "sustained": True, "configured_before": False},
    ]
    status = {"uptime_s": 7, "cid_configs": [row], "unconfigured_cids": others}
    carried = {4: Carried(2.5, 9, configured_before=True), 5: Carried(7.0, 8, sustained=True)}
    assert read_balancer("x", status) == Balancer("x", {1: Seen(1, "active", 7.0, "ab", 3)}, carried)
    for broken in ({}, {**status, "cid_configs": 1}, {**status, "cid_configs": [{"config_id": 1}]}):
        with pytest.raises(QlbError, match="x returns no status"):
            read_balancer("x", broken)


def test_a_status_of_an_earlier_release() -> None:
    """A status of an earlier release does not show if packets persist, so any packet counts, as in that release."""
    others = [{"config_id": 4, "packets": 1, "last_seen_s": 2.5}]
    found = read_balancer("x", {"uptime_s": 7, "cid_configs": [], "unconfigured_cids": others})
    assert found.unconfigured[4] == Carried(2.5, 1, sustained=True, configured_before=True)


def test_a_worker_that_is_behind_delays_issuing() -> None:
    """A balancer does not count as decoding a CID config while one of its workers is behind."""
    found = config("active", "staged")
    (fingerprint,) = (params.fingerprint for params in cid_params(found) if params.config_id == 2)
    staged = next(one for one in found.cid_configs if one.state == "staged")
    row = {"config_id": 2, "state": "staged", "last_seen_s": None, "fingerprint": fingerprint, "packets": 0}
    status = {"uptime_s": 1.0, "cid_configs": [row], "unconfigured_cids": []}
    workers = [{"index": 0, "up_to_date": True}, {"index": 1, "up_to_date": False}]
    assert list(against_issuing(found, staged, [read_balancer("edge", status)])) == [], (
        "a status without workers, of an older release, was refused"
    )
    (reason,) = against_issuing(found, staged, [read_balancer("edge", {**status, "workers": workers})])
    assert reason == "edge: worker 1 has not applied the configuration yet"
    workers[1]["up_to_date"] = True
    assert list(against_issuing(found, staged, [read_balancer("edge", {**status, "workers": workers})])) == []
