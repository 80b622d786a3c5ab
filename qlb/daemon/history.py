"""The past of a daemon's configuration: when it started, and which generation is in force since when."""

import time


class History:
    """The times of the start and of the last change of the configuration, and the generation in force."""

    def __init__(self) -> None:
        """Start now, with the first generation."""
        self.started_s = time.monotonic()
        self.loaded_at_s = time.time()
        self.generation = 1
        self._incomplete: int | None = None
        """A generation that some worker has not applied yet."""

    @property
    def is_complete(self) -> bool:
        """True if every worker has applied the configuration that was accepted last."""
        return self._incomplete is None

    def reloaded(self, generation: int, *, everywhere: bool = True) -> None:
        """Note that a configuration was accepted. everywhere: every worker has applied it."""
        self._incomplete = generation
        if everywhere:
            self.completed()

    def completed(self) -> bool:
        """Note that every worker has applied the accepted configuration. Return True if that was not known before."""
        if self._incomplete is None:
            return False
        self.generation, self._incomplete = self._incomplete, None
        self.loaded_at_s = time.time()
        return True
