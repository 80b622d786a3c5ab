"""The findings about the XDP plane's interfaces, each logged once when it appears and once when all are gone."""

import logging
from typing import Final

from qlb.control.processes.engine import Findings
from qlb.dataplane.xdp.interfaces import Watched

log = logging.getLogger("qlb")

_MAX_NOTICES: Final = 20


class InterfaceWatch:
    """The current findings, and what the log has already reported."""

    def __init__(self) -> None:
        """Begin without findings."""
        self.findings = Findings()
        self._failure = ""
        self._logged: frozenset[str] = frozenset()

    def note(self, found: Watched) -> None:
        """Take over a look at the interfaces, and log what is new in it."""
        self._failure = ""
        notices = (*found.losses, *found.idle, *map(str, found.refusals))
        if len(notices) > _MAX_NOTICES:
            more = len(notices) - _MAX_NOTICES
            notices = (*notices[:_MAX_NOTICES], f"{more} more faults of interfaces")
        for name in found.restored:
            log.warning("the XDP program was detached from %s, and has been attached again", name)
        self._log(found)
        if self.findings.notices and not notices:
            log.info("the XDP program is attached everywhere, and can reach every backend that has a route")
        refused = {name for refusal in found.refusals for name in refusal.backends}
        is_cut_off = bool(found.losses) or found.is_isolated or found.unreached
        self.findings = Findings(notices, len(found.losses), len(refused), is_cut_off)

    def _log(self, found: Watched) -> None:
        """Log faults that were not there before; not again because other backends are behind the same interface."""
        for loss in found.losses:
            if loss not in self._logged:
                log.error(loss)
        for idle in found.idle:
            if idle not in self._logged:
                log.warning(idle)
        for refusal in found.refusals[:_MAX_NOTICES]:
            if refusal.reason not in self._logged:
                log.warning(str(refusal))
        self._logged = frozenset((*found.losses, *found.idle, *(refusal.reason for refusal in found.refusals)))

    def note_failure(self, error: str) -> None:
        """Log, once, that the kernel could not be asked; the findings before stay in force."""
        if error != self._failure:
            log.error("cannot look at the interfaces of the XDP program: %s", error)
        self._failure = error
