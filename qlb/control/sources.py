"""From the configuration to the sources of backends that it names."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from qlb.config.checks import is_loop
from qlb.config.model import Config, DiscoverySource
from qlb.config.pool import read_backends
from qlb.discovery.dns import DnsSettings, DnsSource
from qlb.discovery.file import FileSource
from qlb.discovery.source import Source
from qlb.routing.backends import Backend, Endpoint


def sources(config: Config) -> tuple[Source, ...]:
    """Return every source, new. Raises ConfigError where this machine cannot ask one."""
    return tuple(_sources(config))


def _sources(config: Config) -> Iterator[Source]:
    for one in config.discovery:
        if one.file is not None:
            yield FileSource(one.name, one.file, partial(_read, config=config, source=one))
        elif one.dns is not None:
            yield DnsSource(_dns(one, config))


def _read(path: Path, *, config: Config, source: DiscoverySource) -> tuple[Backend, ...]:
    return read_backends(path, config, source.networks, source.max_backends)


def _dns(one: DiscoverySource, config: Config) -> DnsSettings:
    return DnsSettings(
        name=one.name,
        host=one.dns or "",
        record=one.record,
        port=one.port or 0,
        resolvers=one.resolvers,
        networks=one.networks,
        is_own=partial(_is_own, listen=config.listen),
        weight=one.weight,
        min_s=one.min_interval,
        max_s=max(one.min_interval, one.max_interval),
        max_backends=one.max_backends,
    )


def _is_own(place: Endpoint, *, listen: tuple[Endpoint, ...]) -> bool:
    return any(is_loop(place, service) for service in listen)
