"""Whether all backends have failed, or this node: no clock, no socket.

Backends seldom die together; a prober that has lost its network sees just that. So when the last healthy one turns
unhealthy, those that turned within one round of verdicts before it are held: routing goes on with them as before. The
first that is found healthy again ends it: then whoever is still unhealthy counts as such, each a round later at the
latest. Who was reached (its host refused, or its connection IDs were wrong) is not held: the network was there.
"""

from collections.abc import Iterable


class Fleet:
    """The verdicts on all backends, and which of them count. Times: seconds of one clock."""

    def __init__(self) -> None:
        """Everybody counts as healthy until a verdict."""
        self._down: dict[str, tuple[float, bool]] = {}
        """Unhealthy backends: since when, and whether the fault can be this node's."""
        self._held: dict[str, float] = {}
        """Backends that count as healthy against their verdict: until when, once another is healthy again."""
        self._first_over_s = float("inf")
        """No held backend's time is over before this."""

    @property
    def failing(self) -> bool:
        """Whether some backends are held."""
        return bool(self._held)

    def counts_as_healthy(self, name: str) -> bool:
        """Say whether new connections may go to a backend."""
        return name not in self._down or name in self._held

    def take(
        self, name: str, healthy: bool, *, at_s: float, window_s: float, everybody: Iterable[str], reached: bool
    ) -> None:
        """Take in a verdict on one backend.

        window_s: how long one round of verdicts can take. everybody: all backends. reached: the backend or its host
        has answered. With a window below 0 nobody is ever held.
        """
        if healthy:
            self._down.pop(name, None)
            self._held.pop(name, None)
            self._held = {held: min(until_s, at_s + window_s) for held, until_s in self._held.items()}
            self._first_over_s = min(self._held.values(), default=float("inf"))
            return
        self._down[name] = (at_s, not reached)
        if all(one in self._down for one in everybody):
            self._held |= {
                one: float("inf")
                for one, (since_s, own_fault) in self._down.items()
                if own_fault and since_s >= at_s - window_s
            }

    def release(self, at_s: float) -> bool:
        """Let go of those whose time is over; return whether there were any."""
        if at_s < self._first_over_s:
            return False  # asked after every probe: thousands of times a second
        over = [held for held, until_s in self._held.items() if until_s <= at_s]
        for held in over:
            del self._held[held]
        self._first_over_s = min(self._held.values(), default=float("inf"))
        return bool(over)

    def forget(self, names: Iterable[str]) -> None:
        """Drop backends that have left."""
        for name in names:
            self._down.pop(name, None)
            self._held.pop(name, None)
