"""The settings of the health monitor: what it reads of a configuration, and its own copy of that."""

from typing import NamedTuple, Protocol


class HealthSettings(Protocol):
    """What is read of a configuration's ``health``. interval, timeout: seconds."""

    @property
    def probe(self) -> str:
        """Name of the probe."""

    @property
    def interval(self) -> float:
        """From one probe of a backend to the next."""

    @property
    def timeout(self) -> float:
        """How long an answer may take."""

    @property
    def rise(self) -> int:
        """Good results in a row that make a backend healthy."""

    @property
    def fall(self) -> int:
        """Bad results in a row that make it unhealthy."""

    @property
    def all_failing(self) -> str:
        """``keep``: backends that fail all at once count as healthy; ``obey``: as unhealthy."""


class Settings(NamedTuple):
    """The settings as they were when they were applied."""

    probe: str
    interval: float
    timeout: float
    rise: int
    fall: int
    all_failing: str

    @classmethod
    def of(cls, settings: HealthSettings) -> "Settings":
        """Copy what is read of a configuration."""
        return cls(*(getattr(settings, name) for name in cls._fields))

    @property
    def turn_s(self) -> float:
        """The longest time from one probe of a backend to the next, jitter included."""
        return max(self.interval, self.timeout) * 1.1

    @property
    def round_s(self) -> float:
        """The longest time until every backend's silence has become a verdict."""
        return (self.fall + 1) * self.turn_s + self.timeout
