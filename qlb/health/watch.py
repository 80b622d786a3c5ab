"""The state of one monitored backend: its verdict, its task, and how its real traffic changes the results of probes."""

import asyncio
from typing import Final

from qlb.health.probe import ProbeResult, Target
from qlb.health.verdict import Exchange, Judgement, TrafficEvidence

HINT_PAUSE_S: Final = 1.0
"""The least time between two early probes of a backend: refused packets of clients cause no more than that."""
REFUSAL_VALID_S: Final = 3.0
"""How long a refused packet of a client confirms the refusal of a probe."""


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
        self.task: asyncio.Task[None] | None = None
        self.resting = False
        """True while its task waits for the next probe."""
        self._evidence = TrafficEvidence(seen)
        self._answers_probes = False
        """True if it has ever answered a probe of this kind."""
        self._lives_by_traffic = False
        """True if its answers to clients were a good result and it was not unhealthy since."""
        self._hinted_s = self._refused_s = float("-inf")

    def begin_anew(self) -> None:
        """Let the next result decide alone: the earlier ones came from another kind of probe or another address."""
        self.judgement.begin_anew()
        self._answers_probes = self._lives_by_traffic = False

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
