"""Whether this release can run a configuration here: asked before the first socket, and before a reload."""

import asyncio
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from qlb.addresses import Endpoint
from qlb.config import build
from qlb.config.model import Config
from qlb.daemon.sources import sources
from qlb.dataplane import planes
from qlb.dataplane.limits import descriptor_shortfall, port_shortfall, read_limits
from qlb.dataplane.sockets import receive_buffer_shortfall, send_buffer_shortfall
from qlb.errors import ConfigError
from qlb.health.probes import find_probe
from qlb.local_addresses import FindLocal, find_loops, interface_index, is_local, local_hosts
from qlb.routing.backends import Backend

log = logging.getLogger("qlb")


_CAN_PIN: Final = hasattr(os, "sched_setaffinity")


def preflight(config: Config) -> str:
    """Return the name of the plane that would run.

    Raises PlaneUnavailable or ConfigError, saying what there is instead.
    """
    find_probe(config.health.probe)
    sources(config)
    if config.forwarding.pin_workers and not _CAN_PIN:
        raise ConfigError("forwarding.pin_workers: this system cannot pin a process to a core (Linux can); remove it")
    return planes.choose(config.forwarding.plane, config.forwarding.mode)


def find_faults(config: Config, plane: str) -> tuple[str, ...]:
    """Return what this machine's interfaces and routes would do to packets; only the XDP plane depends on them."""
    if not planes.PLANES[plane].in_kernel:
        return ()
    from qlb.dataplane.xdp.destinations import hosts_of
    from qlb.dataplane.xdp.interfaces import find_faults as find_faults_of

    forwarding = config.forwarding
    try:
        return find_faults_of(forwarding.interfaces, forwarding.attach, hosts_of(build.snapshot(config)))
    except OSError as error:
        return (f"the interfaces of this machine cannot be looked at: {error}",)


class Shortfalls:
    """What one daemon has told of them."""

    def __init__(self, plane: str) -> None:
        """plane: that forwards."""
        self._plane = planes.PLANES[plane]
        self._told: set[str | None] = set()

    def check_address(self, key: str, endpoint: Endpoint | None) -> None:
        """Warn of an address that is bound though packets to it do not reach this machine now. key: where it is set."""
        if endpoint is not None and not is_local(endpoint):
            log.warning(
                "%s: %s is not an address of this machine now; qlb receives from the moment that it is added "
                "(forwarding.freebind: false makes this an error)",
                key,
                endpoint,
            )

    def check_buffers(self, config: Config, receive_bytes: Iterable[int], send_bytes: Iterable[int]) -> None:
        """Log a warning for buffers that are smaller than configured.

        receive_bytes, send_bytes: granted to one worker's listeners; the other workers have the same.
        """
        for shortfall in (
            receive_buffer_shortfall(config.forwarding.receive_buffer, min(receive_bytes)),
            send_buffer_shortfall(config.forwarding.send_buffer, min(send_bytes)),
        ):
            if shortfall is not None:
                log.warning(shortfall)

    def check_sessions(self, config: Config, workers: int) -> None:
        """Tell where the system allows fewer sessions than max_sessions; again only when that has changed."""
        limits, forwarding = read_limits(), config.forwarding
        descriptors = descriptor_shortfall(forwarding.max_sessions, limits)
        uses = len(config.backends) if self._plane.shares_ports else 1
        ports = port_shortfall(forwarding.max_sessions, workers, max(uses, 1), limits)
        # A bound that nobody has asked for is above the ports of every Linux as it comes: no reason to warn.
        port_level = logging.WARNING if "max_sessions" in forwarding.model_fields_set else logging.INFO
        told, self._told = self._told, {descriptors, ports}
        for level, text in ((logging.WARNING, descriptors), (port_level, ports)):
            if text is not None and text not in told:
                log.log(level, text)


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
