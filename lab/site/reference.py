"""The reference of the site, as Markdown: configuration, command line, metrics and Python API."""

import dataclasses
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Final, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from lab.readings import sample_reading
from lab.site import commands, keys
from qlb.observe.exposition import Metrics
from qlb.observe.figures import XdpReading

PAGES: Final = ("configuration.md", "commands.md", "metrics.md", "api.md")
"""The names of the generated pages."""
API: Final = ("qlb.cid", "qlb.adapters.aioquic", "qlb.adapters.hypercorn", "qlb.errors")
"""The modules that programs import, in the order of the page. The names in ``__all__`` are described."""


class Metric(NamedTuple):
    """A metric. kind: counter, gauge and so on. labels: the names of all its labels."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str


def pages() -> dict[str, str]:
    """Return the name of each generated page → its text."""
    texts = (_configuration(), _commands(), _metrics(), _api())
    return {name: "\n".join(lines) for name, lines in zip(PAGES, texts, strict=True)}


_CONFIGURATION: Final = """\
# Configuration reference

After reading this page you know every key of the configuration, its values, its default, and when a
change of it is in force. The page is generated from `qlb schema`; `man qlb.yaml` has the same text.

- **Values.** Each key determines how its value is read: for server IDs, `010203`, `01` and `1e3` are
  the octets that they look like. A key without a value is the same as no key.
- **Durations** have a unit: `500ms`, `30s`, `5m`, `1h`. **Sizes** are octets, or have a unit:
  `512KiB`, `4MiB`.
- **Errors.** Unknown keys and values out of range are errors. `qlb check` reports them all.
- **Paths** are relative to the configuration.

`qlb config --effective edge.yaml` prints every key of a configuration with its value.
"""
_COMMANDS: Final = """\
# Command line reference

After reading this page you know every command of qlb and its options. The page is generated from the
help of the commands. The manual pages (`man qlb-drain`) have the same text.

Exit codes: 0, done; 1, failed while running; 2, the command line or the configuration is wrong. Every
command has `-h` and `--help`. [Operating qlb](../operating.md#the-command-line) describes how a
command finds its daemon.
"""
_METRICS: Final = """\
# Metrics reference

After reading this page you know every metric on `/metrics`. The page is generated from qlb's own
answer. [Watching qlb](../watching.md#prometheus) describes which of them to look at first.

## Metrics of qlb
"""
_PROCESS: Final = """\
## The supervisor's process

These metrics come from the Prometheus client library and concern the supervisor, not the workers.
"""
_API: Final = """\
# Python API

After reading this page you can issue and decode routable connection IDs in your own program. The page
is generated from the docstrings.
"""


def _configuration() -> Iterator[str]:
    yield _CONFIGURATION
    everything = tuple(keys.sections())
    below = {section.path for section in everything}
    for section in everything:
        yield f"## {section.path or 'The whole file'}\n"
        yield f"{section.text}\n"
        for key in section.keys:
            if key.path not in below:
                yield from _key(key)
        if not section.path:
            rows = (
                (f"[{key.path}](#{key.path})", key.kind, _escaped(key.text))
                for key in section.keys
                if key.path in below
            )
            yield from _table(("section", "form", "content"), rows)


def _key(key: keys.Key) -> Iterator[str]:
    yield f"### {key.path} {{ #{key.path} }}\n"
    yield f"{_escaped(key.text)}\n"
    yield f"- Values: {key.kind}"
    yield "- Default: none; the key is required" if key.default == "required" else f"- Default: `{key.default}`"
    if key.example:
        yield f"- Example: `{key.example}`"
    yield f"- A change: {key.change}\n"


def _commands() -> Iterator[str]:
    yield _COMMANDS
    for title, found in commands.sections():
        yield f"## {title}\n"
        for command in found:
            yield f"### {command.name}\n"
            yield f"```text\n{command.name} {command.usage}\n```\n"
            yield from (f"{_escaped(part)}\n" for part in command.text)
            if command.subcommands:
                yield f"Subcommands: {', '.join(f'[{name}](#{_slug(name)})' for name in command.subcommands)}.\n"
            if command.options:
                yield from _table(
                    ("option", "effect"), ((f"`{one.spelling}`", _escaped(one.text)) for one in command.options)
                )


def metrics() -> Iterator[Metric]:
    """Yield every metric on /metrics, in proxy mode and in direct return."""
    found: dict[str, Metric] = {}
    for mode, xdp in (("proxy", None), ("ipip", XdpReading())):
        reading = dataclasses.replace(sample_reading(), mode=mode, xdp=xdp)
        page = Metrics(lambda reading=reading: reading).render()[0].decode()  # type: ignore[misc]
        for family in text_string_to_metric_families(page):
            labels = sorted({label for sample in family.samples for label in sample.labels} - {"le", "quantile"})
            name = f"{family.name}_total" if family.type == "counter" else family.name
            found.setdefault(name, Metric(name, family.type, tuple(labels), family.documentation))
    yield from sorted(found.values())


def _metrics() -> Iterator[str]:
    yield _METRICS
    everything = tuple(metrics())
    yield from (line for one in everything if one.name.startswith("qlb_") for line in _metric(one))
    yield _PROCESS
    yield from (line for one in everything if not one.name.startswith("qlb_") for line in _metric(one))


def _metric(metric: Metric) -> Iterator[str]:
    yield f"### {metric.name}\n"
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    yield f"{metric.kind.capitalize()}{f', by {labels}' if labels else ''}. {_escaped(metric.text)}\n"


def _api() -> Iterator[str]:
    yield _API
    for name in API:
        module = import_module(name)
        members = getattr(module, "__all__", None) or [one for one in vars(module) if one[0].isupper()]
        yield f"::: {name}\n    options:\n      heading_level: 2\n      members: [{', '.join(members)}]\n"


def _table(titles: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(titles)} |"
    yield f"|{' --- |' * len(titles)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


def _escaped(text: str) -> str:
    """Return a text in which brackets make no links."""
    return text.replace("[", "\\[")


def _slug(heading: str) -> str:
    return heading.replace(" ", "-")
