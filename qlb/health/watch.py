"""The state of one monitored backend: its verdict, its task, and how its real traffic changes the results of probes."""

import asyncio
import logging
from collections import deque
from typing import Final

from qlb.health.probe import ProbeResult, Target
from qlb.health.verdict import Exchange, Judgement, TrafficEvidence

log = logging.getLogger("qlb.health")

HINT_PAUSE_S: Final = 1.0
"""The least time between two early probes of a backend: refused packets of clients cause no more than that."""
REFUSAL_VALID_S: Final = 3.0
"""How long a refused packet of a client confirms the refusal of a probe."""
ENOUGH_MOVES: Final = 2
"""So many of the last three probes that tried other ports must have failed: a lost packet proves nothing."""
STUCK: Final = (
    "packets of one connection from other ports get no answer: another process behind the same address receives them "
    "(each process needs a port and a server ID of its own), or the server supports no address changes"
)
"""The finding about a server that does not answer from a client's new address."""


class Watch:
    """The monitor's state of one backend."""

    def __init__(self, target: Target, seen: Exchange) -> None:
        """seen: the backend's packets until now."""
        self.target = target
        self.counts = True
        """The last report to the listener: whether the backend counts as healthy."""
        self.judgement = Judgement()
        self.judged = False
        """True if the verdict comes from a probe, not from the assumption at the start."""
        self.detail = "not probed yet: taken to be healthy"
        self.finding = ""
        """What is wrong with its connection IDs, as the last probe shows."""
        self.right_ids = 0
        """Probes that have found only its own connection IDs."""
        self.shaken_s = float("-inf")
        """When it had the last turn of the probe ``handshake``: pace.py."""
        self._stuck: deque[bool] = deque(maxlen=3)
        """True for each of the last probes that tried other ports and got no answer there."""
        self.is_stuck = False
        self.task: asyncio.Task[None] | None = None
        self.resting = False
        """True while its task waits for the next probe."""
        self._evidence = TrafficEvidence(seen)
        self._answers_probes = False
        """True if it has ever answered a probe of this kind."""
        self._answers_turns = self._answers_light = False
        """With the default probe: whether its last handshake was good, and whether it has ever answered another one."""
        self._lives_by_traffic = False
        """True if its answers to clients were a good result and it was not unhealthy since."""
        self._hinted_s = self._refused_s = float("-inf")

    def begin_anew(self, *, keep_finding: bool = True) -> None:
        """Let the next result decide alone: the earlier ones came from another kind of probe or another address.

        keep_finding: the next result can end a finding, because it comes from the same kind of probe.
        """
        self.judgement.begin_anew()
        self.finding = self.finding if keep_finding else ""
        self._answers_probes = self._lives_by_traffic = self.is_stuck = False
        self._answers_turns = self._answers_light = False
        self._stuck.clear()
        self.shaken_s = float("-inf")

    def cancel(self) -> None:
        """End its task."""
        self.resting = False
        if self.task is not None:
            self.task.cancel()
            self.task = None

    def note_change(self) -> None:
        """Note that the verdict has changed."""
        self._lives_by_traffic &= self.judgement.healthy

    def note_refusal(self, now_s: float) -> bool:
        """Note that a client's packet was refused. Return whether to probe at once."""
        if not self.judgement.healthy:
            return False
        self._refused_s = now_s
        if not self.resting or now_s - self._hinted_s < HINT_PAUSE_S:
            return False
        self._hinted_s = now_s
        return True

    def was_refused(self, now_s: float) -> bool:
        """Return whether a client's packet was refused within the last REFUSAL_VALID_S seconds."""
        return now_s - self._refused_s <= REFUSAL_VALID_S

    def note_ids(self, result: ProbeResult) -> None:
        """Note what a probe has found about the connection IDs. Log a finding when it appears and when it has gone."""
        before = self.all_findings
        self.finding = result.finding
        self.right_ids += result.own_ids
        if result.moves is not None:
            self._stuck.append(not result.moves)
            self.is_stuck = sum(self._stuck) >= ENOUGH_MOVES or (self.is_stuck and any(self._stuck))
        if self.all_findings and not before:
            log.warning(
                "backend configuration is wrong", extra={"backend": self.target.name, "finding": self.all_findings}
            )
        elif before and not self.all_findings:
            log.info("backend configuration ok", extra={"backend": self.target.name})

    def complete(self, result: ProbeResult, *, is_light: bool) -> ProbeResult:
        """Return the result of the default probe that counts.

        is_light: it was no handshake. Then the silence of a server that answers only handshakes is no result. Only
        right IDs end a finding.
        """
        if not is_light:
            self._answers_turns = result.ok
        self._answers_light |= is_light and result.ok
        if is_light and result.silent and self._answers_turns and not self._answers_light:
            text = f"it answers handshakes; this probe was none ({result.detail})"
            return result._replace(detail=text, void=True)
        if not self.finding or not result.ok or result.own_ids or not self.target.server_ids:
            return result
        return result._replace(ok=False, detail=self.finding, finding=self.finding, reached=True)

    @property
    def all_findings(self) -> str:
        """The fault of the backend: its IDs, or packets from new addresses; "" if there is none."""
        return self.finding or (STUCK if self.is_stuck else "")

    def weigh(self, result: ProbeResult, seen: Exchange, now_s: float, since_s: float) -> ProbeResult:
        """Return the result that counts: the probe's, or another one if real traffic proves more.

        Real traffic decides only for a server that has never answered a probe of this kind, and only about silence.
        A refusal or a finding of the probe always counts. seen: packets until now. since_s: earlier answers to clients
        do not count.
        """
        self._evidence.note(seen, now_s)
        self._answers_probes |= result.ok
        if result.ok or result.void:
            return result
        answers_clients = self._evidence.has_answered(since_s)
        if result.error:
            return result._replace(void=answers_clients)
        if not result.silent or self._answers_probes:
            return result
        if answers_clients:
            self._lives_by_traffic = True
            text = f"it answers clients, but never a probe ({result.detail})"
            return ProbeResult(ok=True, detail=text, reached=True)
        if not self._lives_by_traffic or (self._evidence.is_new and self._evidence.was_asked):
            return result
        text = f"it has no traffic now, and never answers a probe ({result.detail})"
        return result._replace(detail=text, ok=self.judgement.healthy, void=not self._evidence.is_new)
