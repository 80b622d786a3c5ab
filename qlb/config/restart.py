"""What a running daemon cannot take over from a changed file: its sockets and processes stay as they are."""

from typing import Final

from qlb.config.model import Config
from qlb.config.problems import Problems
from qlb.config.tree import MappingNode, locate

NEEDS_RESTART: Final = (
    ("listen",),
    ("forwarding", "plane"),
    ("forwarding", "mode"),
    ("forwarding", "workers"),
    ("forwarding", "pin_workers"),
    ("forwarding", "receive_buffer"),
    ("forwarding", "send_buffer"),
    ("forwarding", "freebind"),
    ("forwarding", "interfaces"),
    ("forwarding", "attach"),
    ("forwarding", "keep_attached"),
    ("admin", "listen"),
    ("admin", "socket"),
)
"""The keys, each as the way to it."""


def check_restart(config: Config, running: Config, root: MappingNode, problems: Problems) -> None:
    """Add a problem for each key that differs from the running configuration's and only a restart can change."""
    for steps in NEEDS_RESTART:
        if _value(config, steps) != _value(running, steps):
            _, _, mark = locate(root, steps)
            problems.add(mark, f"{'.'.join(steps)} cannot change while qlb runs: restart it, or write what it was")


def _value(config: Config, steps: tuple[str, ...]) -> object:
    value: object = config
    for step in steps:
        value = getattr(value, step)
    return value
