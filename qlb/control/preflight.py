"""Whether this release can run a configuration here: asked before the first socket, and before a reload."""

from qlb.config.model import Config
from qlb.dataplane import probe
from qlb.health.probes import find_probe


def preflight(config: Config) -> str:
    """Return the name of the plane that would run.

    Raises PlaneUnavailable or ConfigError, saying what there is instead.
    """
    find_probe(config.health.probe)
    return probe.choose(config.forwarding.plane, config.forwarding.mode)
