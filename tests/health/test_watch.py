"""The weight of real traffic against the probes of one backend."""

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
    """A backend that is probed every two seconds of a clock that only turn() advances."""

    def __init__(self) -> None:
        """Start without any packet."""
        self.watch = Watch(TARGET, Exchange())
        self.seen = Exchange()
        self.now_s = 100.0

    def turn(self, result: ProbeResult, forwarded: int = 0, returned: int = 0) -> ProbeResult:
        """Probe once. forwarded, returned: packets since the last turn."""
        self.now_s += 2.0
        self.seen = Exchange(self.seen.forwarded + forwarded, self.seen.returned + returned, self.now_s)
        return self.again(result)

    def again(self, result: ProbeResult) -> ProbeResult:
        """Probe once more with the same counts."""
        return self.watch.weigh(result, self.seen, self.now_s, self.now_s - WINDOW_S)


@pytest.fixture
def turns() -> Turns:
    """A backend without any packet."""
    return Turns()


@pytest.mark.parametrize("result", [GOOD, SILENCE, REFUSED, BLOCKED, NO_PORT])
def test_without_traffic_the_probe_decides(turns: Turns, result: ProbeResult) -> None:
    """Without traffic, the result of the probe counts unchanged."""
    assert turns.turn(result) == result


def test_answers_to_clients_are_a_good_result(turns: Turns) -> None:
    """Fresh answers to clients are a good result for a server that has never answered a probe."""
    found = turns.turn(SILENCE, 3, 3)
    assert (found.ok, found.reached, found.void) == (True, True, False)
    assert "answers clients, but never a probe (no answer)" in found.detail
    assert turns.turn(SILENCE).ok
    assert turns.turn(SILENCE, 3, 0).ok, "the earlier answer is still fresh"
    assert not turns.turn(SILENCE, 3, 0).ok


def test_unanswered_packets_are_no_good_result(turns: Turns) -> None:
    """Packets of clients without answers prove nothing."""
    assert turns.turn(SILENCE, 1000, 0) == SILENCE


def test_a_server_that_has_answered_a_probe_is_judged_by_probes(turns: Turns) -> None:
    """After one answered probe, answers to clients do not count: a server may accept no new connections."""
    turns.turn(GOOD)
    assert turns.turn(SILENCE, 3, 3) == SILENCE
    turns.watch.begin_anew()
    assert turns.turn(SILENCE, 3, 3).ok, "another address is another server"


def test_without_traffic_the_verdict_stays(turns: Turns) -> None:
    """A server that was healthy by its answers to clients stays so while no client sends to it."""
    turns.turn(SILENCE, 3, 3)
    found = [turns.turn(SILENCE) for _ in range(5)]
    assert all(one.ok for one in found)
    assert "it has no traffic now" in found[-1].detail


def test_one_stray_packet_does_not_add_up_with_another(turns: Turns) -> None:
    """An unanswered packet now and then makes one bad result each, never several in a row."""
    turns.turn(SILENCE, 3, 3)
    results = [turns.turn(SILENCE, forwarded).ok for forwarded in (0, 0, 0, 1, 0, 0, 1, 0, 1, 0)]
    assert "".join("+" if ok else "-" for ok in results) == "+++-++-+-+"


def test_probes_between_two_counts_show_nothing(turns: Turns) -> None:
    """One count makes one result, although probes may be more frequent than counts."""
    turns.turn(SILENCE, 3, 3)
    turns.now_s += 100
    assert not turns.turn(SILENCE, 1, 0).ok
    assert all(turns.again(SILENCE).void for _ in range(9))
    assert not turns.turn(SILENCE, 1, 0).ok


def test_once_unhealthy_silence_counts(turns: Turns) -> None:
    """An unhealthy server without traffic gets bad results. Only new answers make it healthy."""
    turns.turn(SILENCE, 3, 3)
    turns.watch.judgement.healthy = False
    turns.watch.note_change()
    turns.now_s += 100
    assert turns.turn(SILENCE) == SILENCE
    assert turns.turn(SILENCE, 1, 1).ok


def test_a_refusal_is_never_outweighed(turns: Turns) -> None:
    """A refusal counts although the server has just answered clients: no process listens there any more."""
    assert turns.turn(REFUSED, 3, 3) == REFUSED
    turns.turn(SILENCE, 3, 3)
    assert turns.turn(REFUSED, 3, 3) == REFUSED


def test_a_blocked_probe_counts_unless_clients_are_answered(turns: Turns) -> None:
    """A blocked probe is void while the server answers clients (a full tracking table blocks only new flows)."""
    assert turns.turn(BLOCKED, 3, 3).void
    assert turns.turn(BLOCKED).void
    assert turns.turn(BLOCKED, 3, 0).void
    assert not turns.turn(BLOCKED, 3, 0).void


def test_an_error_of_this_node_is_not_changed(turns: Turns) -> None:
    """An error of this node stays a void result, with and without answers to clients."""
    assert turns.turn(NO_PORT, 3, 0) == NO_PORT
    assert turns.turn(NO_PORT, 3, 3) == NO_PORT


def test_hints_are_bounded() -> None:
    """A refused packet causes a probe at most once a second, only while the backend is healthy and rests."""
    watch = Watch(TARGET, Exchange())
    assert not watch.note_refusal(10.0), "a probe is running"
    watch.resting = True
    assert watch.note_refusal(10.0)
    watch.resting = True
    assert not watch.note_refusal(10.0 + 0.9 * HINT_PAUSE_S)
    assert watch.note_refusal(10.0 + HINT_PAUSE_S)
    watch.resting, watch.judgement.healthy = True, False
    assert not watch.note_refusal(20.0)


def test_a_refusal_of_clients_is_forgotten() -> None:
    """A refused packet of a client confirms a refused probe for REFUSAL_VALID_S seconds only."""
    watch = Watch(TARGET, Exchange())
    assert not watch.was_refused(0.0)
    watch.note_refusal(10.0)
    assert watch.was_refused(10.0 + REFUSAL_VALID_S)
    assert not watch.was_refused(10.1 + REFUSAL_VALID_S)
