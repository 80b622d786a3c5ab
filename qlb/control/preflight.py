"""Whether this release can run a configuration here: asked before the first socket, and before a reload."""

import os
from typing import Final

from qlb.config import build
from qlb.config.model import Config
from qlb.control.processes.quota import auto_workers
from qlb.control.sources import sources
from qlb.dataplane import probe
from qlb.errors import ConfigError
from qlb.health.probes import find_probe

_CAN_PIN: Final = hasattr(os, "sched_setaffinity")


def preflight(config: Config) -> str:
    """Return the name of the plane that would run.

    Raises PlaneUnavailable or ConfigError, saying what there is instead.
    """
    find_probe(config.health.probe)
    sources(config)
    if config.forwarding.pin_workers and not _CAN_PIN:
        raise ConfigError("forwarding.pin_workers: this system cannot pin a process to a core (Linux can); remove it")
    return probe.choose(config.forwarding.plane, config.forwarding.mode)


def worker_count(config: Config) -> int:
    """Return how many worker processes a configuration asks for; auto follows the CPU quota, too."""
    workers = config.forwarding.workers
    return auto_workers(len(usable_cores())) if workers == "auto" else workers


def find_faults(config: Config, plane: str) -> tuple[str, ...]:
    """Return what this machine's interfaces and routes would do to packets; only the XDP plane depends on them."""
    if not probe.PLANES[plane].in_kernel:
        return ()
    from qlb.dataplane.xdp.destinations import hosts_of
    from qlb.dataplane.xdp.interfaces import find_faults as find_faults_of

    forwarding = config.forwarding
    try:
        return find_faults_of(forwarding.interfaces, forwarding.attach, hosts_of(build.snapshot(config)))
    except OSError as error:
        return (f"the interfaces of this machine cannot be looked at: {error}",)


def usable_cores() -> tuple[int, ...]:
    """Return the numbers of the cores that this process may use, in order; at least one."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))
