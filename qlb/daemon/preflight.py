"""Check whether this machine can run a configuration: before the first socket is opened, and before a reload."""

import logging
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from qlb.addresses import Endpoint
from qlb.config import build
from qlb.config.backends_file import read_backends
from qlb.config.load import Loaded
from qlb.config.model import Config, DiscoverySource
from qlb.dataplane import planes
from qlb.dataplane.limits import (
    MOST_AUTO_SESSIONS,
    descriptor_shortfall,
    granted_sessions,
    port_shortfall,
    read_limits,
)
from qlb.dataplane.limits import Limits as SystemLimits
from qlb.dataplane.sockets import receive_buffer_shortfall, send_buffer_shortfall
from qlb.discovery.source import Limits, Source
from qlb.errors import ConfigError, PlaneUnavailable
from qlb.health.probes import require_probe
from qlb.local_addresses import find_loops, is_local, local_hosts
from qlb.routing.backends import Backend
from qlb.workers.cores import worker_count

if TYPE_CHECKING:
    from qlb.discovery.dns import DnsSettings
    from qlb.discovery.kubernetes import KubernetesSettings

log = logging.getLogger("qlb")

_CAN_PIN: Final = hasattr(os, "sched_setaffinity")


def preflight(loaded: Loaded) -> str:
    """Return the name of the plane that would run.

    Raises ConfigError, with every problem, if this machine cannot run the configuration. The texts name alternatives.
    """
    config, problems = loaded.config, list[str]()
    for path, need in _needs(config):
        try:
            need()
        except (ConfigError, PlaneUnavailable) as error:
            problems.append(loaded.at(path, str(error)))
    if problems:
        raise ConfigError(*problems)
    return planes.choose(config.forwarding.plane, config.forwarding.mode)


def _needs(config: Config) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the path of each key that this machine may not support, and a call that raises if it does not."""
    yield "health.probe", partial(require_probe, config.health.probe)
    for index, source in enumerate(config.discovery):
        yield f"discovery[{index}]", partial(_source, source, config)
    yield "forwarding.pin_workers", partial(_require_pinning, config)
    key = "mode" if config.forwarding.plane == "auto" else "plane"
    yield f"forwarding.{key}", partial(planes.choose, config.forwarding.plane, config.forwarding.mode)


def _require_pinning(config: Config) -> None:
    if config.forwarding.pin_workers and not _CAN_PIN:
        raise ConfigError("forwarding.pin_workers: this system cannot pin a process to a core (Linux can); remove it")


def find_doubts(loaded: Loaded, plane: str) -> tuple[str, ...]:
    """Return warnings about this machine: addresses that it does not have, and faster planes that cannot run here.

    plane: the one that would run.
    """
    return tuple(_doubts(loaded, plane))


def _doubts(loaded: Loaded, plane: str) -> Iterator[str]:
    config = loaded.config
    forwarding = config.forwarding
    if forwarding.plane == "auto" and (reason := planes.passed_over(plane, forwarding.mode)):
        yield loaded.at("forwarding.plane", reason)
    bound = [] if planes.PLANES[plane].in_kernel else [(f"listen[{n}]", one) for n, one in enumerate(config.listen)]
    for path, endpoint in (*bound, ("admin.listen", config.admin.listen)):
        if endpoint is not None and not is_local(endpoint):
            end = (
                "qlb would start, and receive from the moment that it is added"
                if forwarding.freebind and sys.platform == "linux"
                else "qlb would not start"
            )
            name = path.partition("[")[0]
            yield loaded.at(path, f"{name}: {endpoint} is not an address of this machine now; {end}")


def find_faults(config: Config, plane: str) -> tuple[str, ...]:
    """Return the faults of this machine's interfaces and routes. Only the XDP plane depends on them."""
    if not planes.PLANES[plane].in_kernel:
        return ()
    from qlb.dataplane.xdp.destinations import hosts_of
    from qlb.dataplane.xdp.interfaces import find_faults as find_faults_of

    forwarding = config.forwarding
    try:
        return find_faults_of(forwarding.interfaces, forwarding.attach, hosts_of(build.snapshot(config)))
    except OSError as error:
        return (f"the interfaces of this machine cannot be examined: {error}",)


def sources(config: Config) -> tuple[Source, ...]:
    """Return a new source for each entry of `discovery`. Raises ConfigError if this machine cannot query one."""
    return tuple(_source(one, config) for one in config.discovery)


def _source(one: DiscoverySource, config: Config) -> Source:
    # `qlb check` runs this. Sources need an event loop, so they are imported only if there are any.
    if one.file is not None:
        from qlb.discovery.file import FileSource

        return FileSource(one.name, one.file, partial(_read, config=config, source=one))
    if one.kubernetes is not None:
        from qlb.discovery.kubernetes import KubernetesSource

        return KubernetesSource(_kubernetes(one, one.kubernetes, config))
    from qlb.discovery.dns import DnsSource

    assert one.dns is not None, "the rules demand one of the three"
    return DnsSource(_dns(one, one.dns, config))


def _read(path: Path, *, config: Config, source: DiscoverySource) -> tuple[Backend, ...]:
    return read_backends(path, config, source.networks, source.max_backends)


def _dns(one: DiscoverySource, host: str, config: Config) -> "DnsSettings":
    from qlb.discovery.dns import DnsSettings

    return DnsSettings(
        name=one.name,
        host=host,
        record=one.record,
        port=one.port or 0,
        resolvers=one.resolvers,
        limits=_limits(one, config),
        weight=one.weight,
        min_s=one.min_interval,
        max_s=max(one.min_interval, one.max_interval),
    )


def _kubernetes(one: DiscoverySource, path: str, config: Config) -> "KubernetesSettings":
    from qlb.discovery.kubernetes import KubernetesSettings

    namespace, _, service = path.partition("/")
    return KubernetesSettings(
        name=one.name,
        namespace=namespace,
        service=service,
        port=one.port or 0,
        port_name=one.port_name or "",
        kubeconfig=one.kubeconfig,
        limits=_limits(one, config),
        weight=one.weight,
        retry_s=one.min_interval,
    )


def _limits(one: DiscoverySource, config: Config) -> Limits:
    return Limits(
        networks=one.networks,
        find_own=partial(_find_own, listen=config.listen),
        max_backends=one.max_backends,
    )


def _find_own(endpoints: Iterable[Endpoint], *, listen: tuple[Endpoint, ...]) -> Collection[Endpoint]:
    return find_loops(endpoints, listen, local_hosts).keys()


class Shortfalls:
    """Limits of the system that are lower than the configuration asks for. Each is logged once, until it changes."""

    def __init__(self, plane: str) -> None:
        """plane: the name of the plane that forwards."""
        self._plane = planes.PLANES[plane]
        self._logged: tuple[str, ...] = ()
        self._limits = read_limits()

    def check_address(self, key: str, endpoint: Endpoint | None) -> None:
        """Log a warning if a bound address is not an address of this machine now. key: the key that configures it."""
        if endpoint is not None and not is_local(endpoint):
            log.warning(
                "%s: %s is not an address of this machine now; qlb receives from the moment that it is added "
                "(forwarding.freebind: false makes this an error)",
                key,
                endpoint,
            )

    def check_buffers(self, config: Config, receive_bytes: Iterable[int], send_bytes: Iterable[int]) -> None:
        """Log a warning for each buffer that is smaller than configured.

        receive_bytes, send_bytes: what the system granted to the listeners of one worker; all workers have the same.
        """
        for shortfall in (
            receive_buffer_shortfall(config.forwarding.receive_buffer, min(receive_bytes)),
            send_buffer_shortfall(config.forwarding.send_buffer, min(send_bytes)),
        ):
            if shortfall is not None:
                log.warning(shortfall)

    def check_sessions(self, config: Config, workers: int) -> None:
        """Read the system's limits. Log those that allow fewer sessions than configured, if they have changed."""
        self._limits = read_limits()
        before, self._logged = self._logged, tuple(_session_shortfalls(config, self._plane, workers, self._limits))
        for text in self._logged:
            if text not in before:
                log.warning(text)

    def granted_sessions(self, config: Config, workers: int, backends: int) -> int:
        """Return how many sessions each worker can have open, by the limits that were read last.

        backends: their present number, because some planes use a port once for each backend.
        """
        return _granted_sessions(config, self._plane, workers, backends, self._limits)


def sessions_here(config: Config, plane: str) -> tuple[int | None, tuple[str, ...]]:
    """Return how many sessions each worker could have open on this machine, and warnings about a number that is higher.

    plane: the one that would run. None: it opens no sessions.
    """
    row = planes.PLANES[plane]
    if row.in_kernel:
        return None, ()
    workers, limits = worker_count(config), read_limits()
    granted = _granted_sessions(config, row, workers, len(config.backends), limits)
    return granted, tuple(_session_shortfalls(config, row, workers, limits))


def _granted_sessions(config: Config, plane: planes.PlaneRow, workers: int, backends: int, limits: SystemLimits) -> int:
    configured = config.forwarding.max_sessions
    wanted = MOST_AUTO_SESSIONS if configured == "auto" else configured
    return granted_sessions(wanted, workers, max(backends, 1) if plane.shares_ports else 1, limits)


def _session_shortfalls(config: Config, plane: planes.PlaneRow, workers: int, limits: SystemLimits) -> Iterator[str]:
    """Yield each limit that is lower than a number in the configuration. `auto` asks for no number."""
    configured = config.forwarding.max_sessions
    if configured == "auto" or plane.in_kernel:
        return
    uses = max(len(config.backends), 1) if plane.shares_ports else 1
    found = (descriptor_shortfall(configured, limits), port_shortfall(configured, workers, uses, limits))
    yield from (text for text in found if text is not None)
