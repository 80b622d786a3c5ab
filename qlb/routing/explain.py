"""Explain each step of the router's decision for one datagram. For operators; never on the packet path.

It calls the functions that decide, and ends with the router's own decision.
"""

from typing import NamedTuple

from qlb.addresses import FourTuple
from qlb.cid import config_id_of
from qlb.routing.outcomes import OUTCOMES, REASONS, STEPS
from qlb.routing.router import Decision, Router, backend_of, find, look_up_long
from qlb.routing.snapshot import Snapshot
from qlb.wire.invariants import LONG, SHORT, parse
from qlb.wire.versions import version_name

_DRAFT = "draft-ietf-quic-load-balancers"


class Step(NamedTuple):
    """One line of an explanation. section: the document and section that the step follows."""

    section: str
    text: str


class Explanation(NamedTuple):
    """The steps of a decision, and the decision."""

    steps: tuple[Step, ...]
    decision: Decision

    @property
    def outcome(self) -> str:
        """The name of the decision's outcome."""
        return OUTCOMES[self.decision[0]].name


def explain(router: Router, datagram: bytes, four_tuple: FourTuple, now_s: float) -> Explanation:
    """Explain the router's decision for one datagram. Changes the flow tables as the decision does.

    datagram: 0 to 65,527 octets. now_s: seconds, monotonic.
    """
    snapshot = router.snapshot
    form, version, dcid, scid = parse(datagram)
    steps = [_parsed(datagram, form, version, dcid, scid)]
    if form == SHORT or (form == LONG and version):
        steps += _identified(snapshot, form, dcid)
        if find(snapshot, form, dcid) < 0:
            steps += _looked_up(router, form, four_tuple, dcid, scid, now_s)
    decision = router.decide(datagram, four_tuple, now_s)
    steps.append(_decided(snapshot, decision))
    return Explanation(tuple(steps), decision)


def _parsed(datagram: bytes, form: int, version: int, dcid: bytes, scid: bytes) -> Step:
    if form == LONG:
        text = (
            f"long header, version {version_name(version)}, destination ID {_hex(dcid)} ({len(dcid)} octets), "
            f"source ID {_hex(scid)} ({len(scid)} octets)"
        )
        return Step("RFC 8999, section 5.1", text)
    if form == SHORT:
        return Step("RFC 8999, section 5.2", f"short header; the destination ID begins with {_hex(dcid[:20])}")
    reason = "the long header ends before its connection IDs do" if datagram else "the datagram is empty"
    return Step("RFC 8999, section 5", f"{len(datagram)} octets: {reason}")


def _identified(snapshot: Snapshot, form: int, dcid: bytes) -> list[Step]:
    steps = []
    config = None
    if dcid:
        config_id = config_id_of(dcid)
        config = snapshot.configs[config_id]
        known = "which is configured" if config else "which is not configured"
        steps.append(
            Step(f"{_DRAFT}, First CID octet", f"config rotation bits {config_id:03b}: config {config_id}, {known}")
        )
    if config:
        params, server_id = config.codec.params, config.codec.decode(dcid)
        if server_id is not None:
            text = f"{params.algorithm}, server ID {params.server_id_length} and nonce {params.nonce_length} octets"
            steps.append(Step(f"{_DRAFT}, Load Balancer Actions", f"{text}: server ID {server_id.hex()}"))
    index = find(snapshot, form, dcid)
    if index >= 0:
        verdict = f"step 1: routable, the ID belongs to {_name(snapshot, index)}"
    else:
        verdict = f"step 1: unroutable, {REASONS[~index]}"
    return [*steps, Step(f"{_DRAFT}, Load Balancer Forwarding", verdict)]


def _looked_up(router: Router, form: int, four_tuple: FourTuple, dcid: bytes, scid: bytes, now_s: float) -> list[Step]:
    snapshot, section = router.snapshot, f"{_DRAFT}, Load Balancer Forwarding"
    if form == LONG:
        step, index = look_up_long(snapshot, router.flows, four_tuple, dcid, scid, now_s)
        if index >= 0:
            return [
                Step(
                    section,
                    f"steps 2 to 4: the {STEPS[step]} table knows this flow: {_name(snapshot, index)}",
                )
            ]
        missed = "steps 2 to 4: no table knows the source ID, the destination ID or the 4-tuple"
    else:
        index = router.flows.by_four_tuple.get(four_tuple, now_s)
        if backend_of(snapshot, index) is not None:
            return [Step(section, f"step 4: the four_tuple table knows this flow: {_name(snapshot, index)}")]
        missed = "step 4: no table knows the 4-tuple"
    index = snapshot.fallback_backend(four_tuple)
    client = f"{four_tuple[0]} port {four_tuple[1]} to {four_tuple[2]} port {four_tuple[3]}"
    chosen = _name(snapshot, index) if index >= 0 else "no backend, because none accepts new connections"
    return [
        Step(section, missed),
        Step(f"{_DRAFT}, Baseline Fallback Algorithm", f"step 5: {client} hashes to {chosen}"),
    ]


def _decided(snapshot: Snapshot, decision: Decision) -> Step:
    outcome, index = decision
    name = OUTCOMES[outcome].name
    if index < 0:
        return Step("outcome", f"{name}: dropped")
    backend = snapshot.backends[index]
    assert backend is not None, "a decision names a backend that is there"
    health = "healthy" if backend.healthy else "unhealthy"
    return Step("outcome", f"{name}: to {backend.name} at {backend.endpoint} ({backend.state}, {health})")


def _name(snapshot: Snapshot, index: int) -> str:
    backend = snapshot.backends[index]
    assert backend is not None, "a decision names a backend that is there"
    return backend.name


def _hex(octets: bytes) -> str:
    return octets.hex() or "(none)"
