"""Tests of the weight of real traffic against the probes of one backend."""

import pytest

from qlb.addresses import Endpoint
from qlb.health.probe import ProbeResult, Target
from qlb.health.verdict import Exchange
from qlb.health.watch import HINT_PAUSE_S, REFUSAL_VALID_S, Watch

TARGET = Target("a", Endpoint("192.0.2.1", 443))
GOOD = ProbeResult(ok=True, detail="it answers", reached=True)
SILENCE = ProbeResult(ok=False, detail="no answer", doubtful=True, silent=True)
REFUSED = ProbeResult(ok=False, detail="refused", reached=True, refused=True)
BLOCKED = ProbeResult(ok=False, detail="blocked", doubtful=True, error="EPERM")
NO_PORT = ProbeResult(ok=False, detail="no port", error="EAGAIN", void=True)
WINDOW_S = 4.0


class Turns:
    """A backend that is probed every two seconds, on a clock that stands still between probes."""

    def __init__(self) -> None:
        """Start without any packets."""
        self.watch = Watch(TARGET, 0.0, Exchange())
        self.seen = Exchange()
        self.now_s = 100.0

    def turn(self, result: ProbeResult, forwarded: int = 0, returned: int = 0) -> ProbeResult:
        """Probe once. forwarded, returned: packets since the last probe."""
        self.now_s += 2.0
        self.seen = Exchange(self.seen.forwarded + forwarded, self.seen.returned + returned, self.now_s)
        return self.again(result)

    def again(self, result: ProbeResult) -> ProbeResult:
        """Probe once more, before packets are counted again."""
        return self.watch.weigh(result, self.seen, self.now_s, self.now_s - WINDOW_S)


@pytest.fixture
def turns() -> Turns:
    """A backend without packets."""
    return Turns()


@pytest.mark.parametrize("result", [GOOD, SILENCE, REFUSED, BLOCKED, NO_PORT])
def test_without_traffic_the_probe_decides(turns: Turns, result: ProbeResult) -> None:
    """Without traffic, the result of the probe is not changed."""
    assert turns.turn(result) == result


def test_answers_to_clients_are_life(turns: Turns) -> None:
    """If a server never answered a probe, answers to clients count as success while they are fresh."""
    found = turns.turn(SILENCE, 3, 3)
    assert (found.ok, found.reached, found.void) == (True, True, False)
    assert "answers clients, but never a probe (no answer)" in found.detail
    assert turns.turn(SILENCE).ok
    assert turns.turn(SILENCE, 3, 0).ok, "the last answer is still fresh"
    assert not turns.turn(SILENCE, 3, 0).ok


def test_unanswered_packets_are_no_evidence(turns: Turns) -> None:
    """Clients' packets without answers prove nothing."""
    assert turns.turn(SILENCE, 1000, 0) == SILENCE


def test_a_server_that_answered_probes_must_continue(turns: Turns) -> None:
    """Answers to clients do not replace a probe that was answered before, since they may be of old connections."""
    turns.turn(GOOD)
    assert turns.turn(SILENCE, 3, 3) == SILENCE
    turns.watch.begin_anew()
    assert turns.turn(SILENCE, 3, 3).ok, "another address counts as another server"


def test_without_traffic_the_verdict_stays(turns: Turns) -> None:
    """A server that was healthy by its answers to clients stays healthy without traffic."""
    turns.turn(SILENCE, 3, 3)
    found = [turns.turn(SILENCE) for _ in range(5)]
    assert all(one.ok for one in found)
    assert "it has no traffic now" in found[-1].detail


def test_one_stray_packet_does_not_add_up_with_another(turns: Turns) -> None:
    """Each unanswered packet, now and then, gives one failure, never several in a row."""
    turns.turn(SILENCE, 3, 3)
    results = [turns.turn(SILENCE, forwarded).ok for forwarded in (0, 0, 0, 1, 0, 0, 1, 0, 1, 0)]
    assert "".join("+" if ok else "-" for ok in results) == "+++-++-+-+"


def test_probes_between_two_counts_show_nothing(turns: Turns) -> None:
    """Packets are counted once a second, so only the first probe after a count gives a result."""
    turns.turn(SILENCE, 3, 3)
    turns.now_s += 100
    assert not turns.turn(SILENCE, 1, 0).ok
    assert all(turns.again(SILENCE).void for _ in range(9))
    assert not turns.turn(SILENCE, 1, 0).ok


def test_once_unhealthy_silence_counts(turns: Turns) -> None:
    """An unhealthy backend needs new answers to recover; silence without traffic confirms the verdict."""
    turns.turn(SILENCE, 3, 3)
    turns.watch.judgement.healthy = False
    turns.watch.turned(0.0)
    turns.now_s += 100
    assert turns.turn(SILENCE) == SILENCE
    assert turns.turn(SILENCE, 1, 1).ok


def test_a_refusal_is_never_outweighed(turns: Turns) -> None:
    """A refusal counts despite recent answers, because the host reports that the port is closed."""
    assert turns.turn(REFUSED, 3, 3) == REFUSED
    turns.turn(SILENCE, 3, 3)
    assert turns.turn(REFUSED, 3, 3) == REFUSED


def test_a_blocked_probe_counts_unless_clients_are_answered(turns: Turns) -> None:
    """A blocked probe counts only if clients get no answers: a full tracking table blocks new flows only."""
    assert turns.turn(BLOCKED, 3, 3).void
    assert turns.turn(BLOCKED).void
    assert turns.turn(BLOCKED, 3, 0).void
    assert not turns.turn(BLOCKED, 3, 0).void


def test_an_error_of_this_node_changes_nothing(turns: Turns) -> None:
    """An error of this node stays void, with or without traffic."""
    assert turns.turn(NO_PORT, 3, 0) == NO_PORT
    assert turns.turn(NO_PORT, 3, 3) == NO_PORT


def test_hints_are_bounded() -> None:
    """One hint per second is accepted, and only while a healthy backend waits for its next probe."""
    watch = Watch(TARGET, 0.0, Exchange())
    assert not watch.note_refusal(10.0), "the backend is being probed"
    watch.resting = True
    assert watch.note_refusal(10.0)
    watch.resting = True
    assert not watch.note_refusal(10.0 + 0.9 * HINT_PAUSE_S)
    assert watch.note_refusal(10.0 + HINT_PAUSE_S)
    watch.resting, watch.judgement.healthy = True, False
    assert not watch.note_refusal(20.0)


def test_a_refusal_of_clients_is_forgotten() -> None:
    """A client's refusal confirms a probe's only for a short time."""
    watch = Watch(TARGET, 0.0, Exchange())
    assert not watch.was_refused(0.0)
    watch.note_refusal(10.0)
    assert watch.was_refused(10.0 + REFUSAL_VALID_S)
    assert not watch.was_refused(10.1 + REFUSAL_VALID_S)
