"""Names of metrics: exposed by qlb, recorded by rules, and used in queries."""

import dataclasses
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import yaml
from prometheus_client.parser import text_string_to_metric_families

from lab.deploy.tools import DEPLOY
from lab.readings import sample_reading
from qlb.observe.exposition import Metrics
from qlb.observe.figures import XdpReading

RULES: Final = ("qlb.records.yml", "qlb.alerts.yml")
_OF_PROMETHEUS: Final = frozenset({"up"})
_IDENTIFIER: Final = re.compile(r"""(?<![\w:$"'.])(?:up\b|(?:qlb|process)_\w+|[a-z_]+:[\w:]+)(?![\w"'])""")


def rules() -> Iterator[dict[str, Any]]:
    """Yield every recording and alerting rule."""
    for name in RULES:
        for group in yaml.safe_load((DEPLOY / "prometheus" / name).read_text())["groups"]:
            yield from group["rules"]


def recorded() -> set[str]:
    """Return the metrics that the recording rules define."""
    return {rule["record"] for rule in rules() if "record" in rule}


def exposed() -> set[str]:
    """Return the metrics on /metrics, in proxy mode and in direct return."""
    found: set[str] = set()
    for mode, xdp in (("proxy", None), ("ipip", XdpReading())):
        reading = dataclasses.replace(sample_reading(), mode=mode, xdp=xdp)
        page = Metrics(lambda reading=reading: reading).render()[0].decode()  # type: ignore[misc]
        found |= {row.name for family in text_string_to_metric_families(page) for row in family.samples}
    return found


def asked_for(queries: Iterable[str]) -> set[str]:
    """Return the metrics that the queries name."""
    return {name for query in queries for name in _IDENTIFIER.findall(query)} - _OF_PROMETHEUS


def known() -> set[str]:
    """Return the metrics that a query may name."""
    return exposed() | recorded()
