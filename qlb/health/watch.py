"""One backend under watch: its verdict, its task, and how real traffic weighs against its probes."""

import asyncio
from typing import Final, NamedTuple

from qlb.health.probe import ProbeResult, Target
from qlb.health.verdict import Exchange, Judgement, TrafficEvidence

HINT_PAUSE_S: Final = 1.0
"""From one probe of a backend that a refusal has brought forward to the next: all that refused packets can cause."""
REFUSAL_VALID_S: Final = 3.0
"""How long a refusal of real traffic confirms the refusal of a probe."""


class BackendHealth(NamedTuple):
    """What is known of a backend. healthy: the probes' verdict. detail: of the last probe.

    changed_at: Unix seconds; when the verdict became so. finding: what is wrong with how the backend is set up, or "".
    """

    healthy: bool
    detail: str
    changed_at: float
    finding: str = ""


class Watch:
    """What the monitor keeps of one backend."""

    def __init__(self, target: Target, now: float, seen: Exchange) -> None:
        """now: Unix seconds. seen: its packets until now."""
        self.target = target
        self.counts = True
        self.judgement = Judgement()
        self.judged = False
        self.detail = "not probed yet: taken to be healthy"
        self.finding = ""
        self.changed_at = now
        self.task: asyncio.Task[None] | None = None
        self.resting = False
        """Whether its task waits for the next probe."""
        self._evidence = TrafficEvidence(seen)
        self._answers_probes = False
        """Whether it has ever answered a probe of this kind."""
        self._lives_by_traffic = False
        """Whether its answers to clients were a good result, and it was not unhealthy since."""
        self._hinted_s = self._refused_s = float("-inf")

    def begin_anew(self) -> None:
        """Let the next result decide alone: the earlier ones were found in another way or somewhere else."""
        self.judgement.begin_anew()
        self._answers_probes = self._lives_by_traffic = False

    def cancel(self) -> None:
        """End its task."""
        self.resting = False
        if self.task is not None:
            self.task.cancel()
            self.task = None

    def turned(self, now: float) -> None:
        """Note that the verdict has changed. now: Unix seconds."""
        self.changed_at = now
        self._lives_by_traffic &= self.judgement.healthy

    def note_refusal(self, now_s: float) -> bool:
        """Note that real traffic was refused; return whether to probe at once."""
        if not self.judgement.healthy:
            return False
        self._refused_s = now_s
        if not self.resting or now_s - self._hinted_s < HINT_PAUSE_S:
            return False
        self._hinted_s = now_s
        return True

    def was_refused(self, now_s: float) -> bool:
        """Return whether real traffic was refused a moment ago."""
        return now_s - self._refused_s <= REFUSAL_VALID_S

    def weigh(self, result: ProbeResult, seen: Exchange, now_s: float, since_s: float) -> ProbeResult:
        """Return the result that counts: the probe's, or another one if real traffic shows more.

        seen: packets until now. since_s: from when on answers to clients count.
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
