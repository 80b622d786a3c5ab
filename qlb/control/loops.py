"""Backends that are left out since they are this daemon itself, for as long as they are.

An address can come to this machine while the daemon runs (a virtual address that moves here, a container's network),
and any source can name it. So all backends are looked at whenever the pool is compiled, and the addresses again every
few seconds.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from qlb.config.local_addresses import FindLocal, local_hosts
from qlb.config.loops import find_loops
from qlb.routing.backends import Backend, Endpoint

log = logging.getLogger("qlb")

INTERVAL_S: Final = 3.0
"""From one look at the machine's addresses to the next. A look takes some 15 µs for each backend's address."""


class Loops:
    """Which backends are this daemon itself."""

    def __init__(self, listen: Sequence[Endpoint], find_local: FindLocal = local_hosts) -> None:
        """listen: the service's addresses. find_local: finds the machine's addresses."""
        self.listen = tuple(listen)
        self._find_local = find_local
        self._known: dict[str, bool] = {}
        """Backends' hosts that were asked about: whether each is an address of this machine."""
        self._excluded: Mapping[str, str] = {}

    @property
    def excluded(self) -> Mapping[str, str]:
        """Backend name → why it gets no packets."""
        return self._excluded

    def exclude(self, backends: Iterable[Backend]) -> frozenset[str]:
        """Return the names of those that must get no packets. Logs each that comes or goes, once."""
        by_name = {one.name: one.endpoint for one in backends}
        asked: set[str] = set()

        def find_known(hosts: Iterable[str]) -> frozenset[str]:
            asked.update(hosts)
            new = asked - self._known.keys()
            local = self._find_local(new) if new else frozenset()
            self._known |= {host: host in local for host in new}
            return frozenset(host for host in asked if self._known[host])

        loops = find_loops(by_name.values(), self.listen, find_known)
        self._known = {host: self._known[host] for host in asked}
        excluded = {name: _why(endpoint, loops[endpoint]) for name, endpoint in by_name.items() if endpoint in loops}
        self._log_changes(by_name, excluded)
        self._excluded = excluded
        return frozenset(excluded)

    async def look(self) -> bool:
        """Look at the machine's addresses again, on a thread. Returns whether a backend's has come or gone."""
        hosts = tuple(self._known)
        local = await asyncio.to_thread(self._find_local, hosts) if hosts else frozenset()
        changed = {host: host in local for host in hosts if self._known.get(host) not in (None, host in local)}
        self._known |= changed
        return bool(changed)

    def _log_changes(self, present: Mapping[str, Endpoint], excluded: Mapping[str, str]) -> None:
        for name in sorted(excluded.keys() - self._excluded.keys()):
            log.warning("backend excluded: it is this balancer", extra={"backend": name, "reason": excluded[name]})
        for name in sorted(self._excluded.keys() - excluded.keys()):
            if name in present:
                address = str(present[name])
                log.info("backend no longer excluded", extra={"backend": name, "address": address})


def _why(backend: Endpoint, service: Endpoint) -> str:
    return f"{backend} is an address of this machine on which it listens ({service}): packets would loop"
