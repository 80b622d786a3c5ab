"""Whether a backend counts as healthy, from the results of its probes alone: no clock, no socket.

Until the first result a backend is taken to be what it was, at first healthy; that result decides alone,
unless it is doubtful. Afterwards only enough results in a row turn it, so that one lost packet moves no
connections; but what is certain (a connection ID that leads elsewhere) is never chance.
"""


class Judgement:
    """What is held of one backend."""

    __slots__ = ("_decided", "_streak", "healthy")

    def __init__(self) -> None:
        """Take it for healthy until the first result."""
        self.healthy = True
        self._decided = False
        self._streak = 0

    def begin_anew(self) -> None:
        """Let the next result decide alone: the earlier ones were found in another way or somewhere else."""
        self._decided, self._streak = False, 0

    def take(self, ok: bool, *, rise: int, fall: int, doubtful: bool = False, certain: bool = False) -> int:
        """Take in one result. Returns how many in a row have turned the judgement now; 0 = it stands.

        rise: good results in a row that make it healthy. fall: bad ones that make it unhealthy.
        doubtful: this result never decides alone. certain: it always does.
        """
        if ok is self.healthy:
            self._decided, self._streak = True, 0
            return 0
        self._streak += 1
        alone = certain or (not self._decided and not doubtful)
        if not alone and self._streak < (rise if ok else fall):
            return 0
        results = self._streak
        self.healthy, self._decided, self._streak = ok, True, 0
        return results
