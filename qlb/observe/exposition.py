"""The metrics page: the metrics of qlb and of its process in one of Prometheus's formats."""

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from qlb.observe.figures import Reading
from qlb.observe.metrics import QlbCollector

_LATER_VERSION: Final = re.compile(r"version=0*[1-9]\d*\.\d+\.\d+")
_ODD_VERSION: Final = re.compile(r"version=(?!\d{1,3}\.\d{1,3}\.\d{1,3}\s*(?:[,;]|$))")


class Format(NamedTuple):
    """A format of the metrics page. There are few of them, whatever an Accept header asks for."""

    content_type: str
    encode: Callable[[Collector], bytes]


class Metrics:
    """The metrics page: the metrics of qlb and of its process, in a registry of their own."""

    def __init__(self, read: Callable[[], Reading]) -> None:
        """read: takes a reading."""
        self._registry = CollectorRegistry()
        self._registry.register(QlbCollector(read))
        ProcessCollector(registry=self._registry)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return the page and its content type. accept: an HTTP Accept header."""
        chosen = choose_format(accept)
        return chosen.encode(self._registry), chosen.content_type


def choose_format(accept: str) -> Format:
    """Return OpenMetrics or the Prometheus text format, as an HTTP Accept header asks.

    The result is text of version 0.0.4 if the header asks for nothing newer or is malformed (the library compares
    versions unchecked). A version after 1.0.0 gets 1.0.0: the library would confirm any version that a client invents.
    """
    sound = accept.isascii() and not _ODD_VERSION.search(accept)
    encode, content_type = choose_encoder(_LATER_VERSION.sub("version=1.0.0", accept) if sound else "")
    return Format(content_type, encode)
