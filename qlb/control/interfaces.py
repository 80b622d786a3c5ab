"""The interfaces that link-local addresses name.

The kernel knows an interface by its number, and one that is removed and made again has another. Backends are resolved
again then. A listener cannot be: its socket stays tied to the number that it was bound with, so it is only reported.
"""

import logging
from collections.abc import Iterable

from qlb.dataplane.addresses import interface_index
from qlb.routing.backends import Endpoint

log = logging.getLogger("qlb")


class Interfaces:
    """The numbers of the interfaces that one daemon depends on."""

    def __init__(self) -> None:
        """None is known yet."""
        self._of_backends: dict[str, int] = {}
        self._of_listeners: dict[str, int] = {}
        self._reported: set[str] = set()

    def bound(self, listeners: Iterable[Endpoint]) -> None:
        """Note what listeners were bound to just now."""
        self._of_listeners = _numbers(listeners)

    def have_changed(self, backends: Iterable[Endpoint]) -> bool:
        """Return whether an interface of backends has another number than when this was last asked."""
        before, self._of_backends = self._of_backends, _numbers(backends)
        return any(before.get(scope, number) != number for scope, number in self._of_backends.items())

    def report_lost_listeners(self) -> None:
        """Log each interface that was removed, or made anew, since a listener was bound to it; once."""
        for scope, number in self._of_listeners.items():
            if scope not in self._reported and _number(scope) != number:
                self._reported.add(scope)
                log.warning(
                    "listen: the interface %s was removed or made anew; restart qlb to receive on it",
                    scope,
                )


def _numbers(endpoints: Iterable[Endpoint]) -> dict[str, int]:
    scopes = {endpoint.host.partition("%")[2] for endpoint in endpoints if "%" in endpoint.host}
    return {scope: _number(scope) for scope in scopes}


def _number(scope: str) -> int:
    """Return the number of an interface; 0 if there is none of that name."""
    try:
        return interface_index(scope)
    except OSError:
        return 0
