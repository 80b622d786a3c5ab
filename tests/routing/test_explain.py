"""Explanations: the steps that matter are named, with the section that they follow, and end in the decision."""

import pytest

from lab.pool import FLOW, FOUR_PASS, backends, changed, cid, long, router, short, snapshot
from qlb.routing.explain import explain

UNKNOWN = b"\xe1" + b"\x55" * 7


def _text(datagram: bytes, r: object = None) -> str:
    told = explain(r or router(), datagram, FLOW, 0.0)  # type: ignore[arg-type]
    return "\n".join(f"{step.section}: {step.text}" for step in told.steps)


@pytest.mark.parametrize(
    ("datagram", "words"),
    [
        (
            short(b"\x40" + bytes(11)),
            ["RFC 8999, section 5.2", "config rotation bits 010", "four-pass", "unknown_server_id", "step 5"],
        ),
        (long(UNKNOWN), ["long header, version v1", "which is not configured", "reserved_config", "hashes to b"]),
        (long(b""), ["(none)", "too_short"]),
        (long(b"\x40\1"), ["config rotation bits 010", "too_short"]),
        (b"\x40", ["too_short", "step 4: no table"]),
        (b"", ["0 octets: the datagram is empty", "drop_empty"]),
        (b"\xc0\0", ["2 octets: the long header ends", "drop_truncated"]),
        (long(b"\x40", version=0), ["version negotiation", "drop_version_negotiation"]),
    ],
)
def test_steps(datagram: bytes, words: list[str]) -> None:
    """Each kind of datagram says what it is and why it goes where it goes."""
    text = _text(datagram)
    for word in words:
        assert word in text


def test_routable() -> None:
    """The owner, its address and its state are told."""
    text = _text(long(cid(FOUR_PASS, 1)), router(changed(backends(), 1, healthy=False)))
    assert "the ID belongs to b1" in text
    assert "to b1 at 127.0.0.1:5001 (active, unhealthy)" in text


@pytest.mark.parametrize(("build", "table"), [(long, "source_id"), (short, "four_tuple")])
def test_known_flows(build: object, table: str) -> None:
    """A flow that a table knows is told with the table."""
    r = router()
    datagram = build(UNKNOWN)  # type: ignore[operator]
    told = [_text(datagram, r) for _ in range(2)]
    assert "step 5" in told[0]
    assert f"the {table} table knows this flow" in told[1]
    assert explain(r, datagram, FLOW, 1.0).outcome == f"{table}_reserved_config"


def test_nobody_takes_it() -> None:
    """Without a backend, the explanation says so."""
    assert "hashes to no backend, because none accepts new connections" in _text(long(UNKNOWN), router([]))


def test_a_flow_of_a_backend_that_left() -> None:
    """The entry is no answer, and the explanation does not fall over it."""
    r = router(backends(2))
    r.decide(short(UNKNOWN), FLOW, 0.0)
    r.snapshot = snapshot([])
    assert "drop_no_backend" in _text(short(UNKNOWN), r)
