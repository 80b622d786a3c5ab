"""What a source of backends is, and what it answers."""

from typing import NamedTuple, Protocol

from qlb.errors import QlbError
from qlb.routing.backends import Backend


class DiscoveryError(QlbError):
    """A source could not be asked, or has answered nonsense; the text says what happened."""


class Answer(NamedTuple):
    """backends: all that there are now, without server IDs where those are made of addresses.

    again_s: seconds until the source is to be asked again. remarks: what an operator should know, for the log.
    """

    backends: tuple[Backend, ...]
    again_s: float
    remarks: tuple[str, ...] = ()


class Source(Protocol):
    """One place where backends are found."""

    @property
    def name(self) -> str:
        """What it is called, in names of its backends, metrics and the log."""
        ...

    @property
    def kind(self) -> str:
        """``dns``, ``file`` or ``kubernetes``."""
        ...

    @property
    def patience(self) -> int:
        """So many times in a row a source that had backends must answer that there are none, until that is believed."""
        ...

    @property
    def retry_s(self) -> float:
        """Seconds until it is asked again after an error."""
        ...

    async def ask(self) -> Answer:
        """Return what is there now. Raises DiscoveryError."""
        ...
