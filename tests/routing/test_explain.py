"""Explanations: they name the relevant steps with their sections, and end with the decision."""

import pytest

from lab.pool import FLOW, FOUR_PASS, backends, changed, cid, long, router, short, snapshot
from qlb.routing.explain import explain

UNKNOWN = b"\xe1" + b"\x55" * 7


def _text(datagram: bytes, r: object = None) -> str:
    explanation = explain(r or router(), datagram, FLOW, 0.0)  # type: ignore[arg-type]
    return "\n".join(f"{step.section}: {step.text}" for step in explanation.steps)


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
    """The explanation of each kind of datagram names its form and the reasons for the decision."""
    text = _text(datagram)
    for word in words:
        assert word in text


def test_routable() -> None:
    """The explanation shows the backend's name, address and state."""
    text = _text(long(cid(FOUR_PASS, 1)), router(changed(backends(), 1, healthy=False)))
    assert "the ID belongs to b1" in text
    assert "to b1 at 127.0.0.1:5001 (active, unhealthy)" in text


@pytest.mark.parametrize(("build", "table"), [(long, "source_id"), (short, "four_tuple")])
def test_known_flows(build: object, table: str) -> None:
    """The explanation of a known flow names the table."""
    r = router()
    datagram = build(UNKNOWN)  # type: ignore[operator]
    texts = [_text(datagram, r) for _ in range(2)]
    assert "step 5" in texts[0]
    assert f"the {table} table knows this flow" in texts[1]
    assert explain(r, datagram, FLOW, 1.0).outcome == f"{table}_reserved_config"


def test_no_backend_accepts_it() -> None:
    """Without a backend, the explanation gives the reason."""
    assert "hashes to no backend, because none accepts new connections" in _text(long(UNKNOWN), router([]))


def test_a_flow_of_a_backend_that_left() -> None:
    """An entry for a removed backend counts as a miss in the explanation too."""
    r = router(backends(2))
    r.decide(short(UNKNOWN), FLOW, 0.0)
    r.snapshot = snapshot([])
    assert "drop_no_backend" in _text(short(UNKNOWN), r)
