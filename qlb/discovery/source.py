"""What a source of backends is, and what it answers."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from qlb.errors import QlbError
from qlb.routing.backends import Backend


class DiscoveryError(QlbError):
    """A source could not be asked, or has answered nonsense; the text says what happened."""


class Remark(NamedTuple):
    """Something about an answer that an operator should know.

    topic: one word for what it is about. The text of a remark may change with each answer; one topic is logged once.
    """

    topic: str
    text: str


class Answer(NamedTuple):
    """backends: all that there are now, without server IDs where those are made of addresses.

    again_s: seconds until the source is to be asked again. remarks: for the log and /status.
    """

    backends: tuple[Backend, ...]
    again_s: float
    remarks: tuple[Remark, ...] = ()


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
        """The number of answers in a row that must lack a backend until it counts as gone."""
        ...

    @property
    def most(self) -> int:
        """The most backends that it may have."""
        ...

    @property
    def retry_s(self) -> float:
        """Seconds until it is asked again after an error, and while a backend that an answer lacks may come back."""
        ...

    def recall(self, backends: Sequence[Backend]) -> None:
        """Learn what a source of the same name has found before this one, which may be in an earlier process."""
        ...

    async def ask(self) -> Answer:
        """Return what is there now. Raises DiscoveryError."""
        ...
