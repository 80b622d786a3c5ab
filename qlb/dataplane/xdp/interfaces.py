"""The interfaces on which packets arrive, and the checks of them while the program forwards.

At any moment between two calls of watch(), the program may be detached, interfaces may appear, disappear and change,
and routes may move to an interface that accepts no packets from the program.
"""

import socket
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from qlb.dataplane.xdp.attach import Attachment, Loss, holds_back
from qlb.dataplane.xdp.bpf_object import BpfMap
from qlb.dataplane.xdp.exits import (
    Exits,
    Ingress,
    Refusal,
    System,
    Target,
    expect_refusals,
    find_exits,
    find_refusals,
    find_targets,
)
from qlb.dataplane.xdp.layout import EXIT, EXIT_KEY
from qlb.dataplane.xdp.netlink import GENERIC
from qlb.errors import PlaneUnavailable

_THOROUGH_EVERY: Final = 10
"""One of so many calls reads the routes to all backends; so does a call after interfaces or addresses have changed."""

Hosts = Mapping[str, str]
"""Addresses of backends by name."""


class Watched(NamedTuple):
    """The result of a check of the interfaces.

    losses: a sentence for each interface where the program is not attached. restored: interfaces to which this check
    attached it again. idle: a sentence for each interface on which no packets can arrive. is_isolated: all are idle.
    refusals: interfaces that accept no packets. unreached: no backend with a route can be reached.
    changed: interfaces or addresses have changed, or the routes were due. has_new_exits: the exits have changed.
    """

    losses: tuple[str, ...]
    restored: tuple[str, ...]
    idle: tuple[str, ...]
    is_isolated: bool
    refusals: tuple[Refusal, ...]
    unreached: bool
    changed: bool
    has_new_exits: bool


class Interfaces:
    """The program's attachments, and the contents of its map `exits`."""

    def __init__(self, names: Sequence[str], where: str, *, keep: bool) -> None:
        """Find the interfaces. where: auto, native or generic. keep: close() leaves the program attached.

        prefers_generic: for `auto`, put() chose to attach after the driver, because only there it reaches all backends.
        Raises PlaneUnavailable.
        """
        self._attachments = [Attachment(name, keep=keep) for name in names]
        self._where = where
        self.prefers_generic = False
        self._is_attached = False
        self.redirects_only = any(map(holds_back, names))
        self._exits: Exits = {}
        self._system: System | None = None
        self._targets: list[Target] = []
        self._hosts: Hosts = {}
        self._calls = 0

    @property
    def indexes(self) -> tuple[int, ...]:
        """Indexes of the interfaces at the last check."""
        return tuple(attachment.index for attachment in self._attachments)

    def fill(self, exits: BpfMap) -> None:
        """Write the current exits into the program's map. Raises OSError."""
        self._write(exits, System.read())

    def put(self, program: int, exits: BpfMap, hosts: Hosts) -> None:
        """Attach the program, or replace an earlier one. Raises PlaneUnavailable, OSError."""
        if self._where == "auto":
            self.prefers_generic = self._needs_generic(hosts)
        self.fill(exits)
        for attachment in self._attachments:
            attachment.put(program, self._mode)
        self._is_attached = True
        self.fill(exits)  # for the modes in which the kernel attached it

    def replace(self, program: int) -> None:
        """Replace the program by another with the same map of exits. Raises PlaneUnavailable."""
        for attachment in self._attachments:
            attachment.put(program, self._mode)

    def watch(self, program: int, exits: BpfMap, hosts: Hosts) -> Watched:
        """Check everything, attach the program again if it was detached, and update the exits. Raises OSError."""
        losses: list[str] = []
        restored: list[str] = []
        for attachment in self._attachments if self._is_attached else ():
            lost = self._restore(attachment, program)
            if lost is None:
                continue
            (losses if lost else restored).append(lost or attachment.interface)
        system, before = System.read(), self._system
        changed = (
            before is None
            or hosts != self._hosts
            or bool(restored)
            or not self._calls % _THOROUGH_EVERY
            or (system.devices, system.features, system.addresses) != before[:3]
        )
        self._calls += 1
        has_new_exits = self._write(exits, system)
        if changed:
            self._targets, self._hosts = find_targets(hosts), dict(hosts)
        ingresses = self._ingresses(system, generic=self.prefers_generic)
        refusals = find_refusals(system, self._exits, ingresses, self._targets)
        refused = {name for refusal in refusals for name in refusal.backends}
        unreached = bool(self._targets) and refused >= {target.backend for target in self._targets}
        idle = self._find_idle(system)
        is_isolated = len(idle) == len(self._attachments) > 0
        return Watched(
            tuple(losses), tuple(restored), idle, is_isolated, tuple(refusals), unreached, changed, has_new_exits
        )

    def close(self) -> None:
        """Detach, unless the program is to be kept."""
        for attachment in self._attachments:
            attachment.close()

    @property
    def _mode(self) -> str:
        return "generic" if self.prefers_generic else self._where

    def _restore(self, attachment: Attachment, program: int) -> str | None:
        """Attach the program again if necessary. Return None if it was attached, "" if it is again, else the fault."""
        loss = attachment.find_loss(program)
        if loss is None:
            return None
        if loss is Loss.REPLACED:  # by a newer process of qlb: do not fight over the interface
            return f"{attachment.interface}: another program has replaced that of this process"
        try:
            attachment.restore(program, self._mode)
        except PlaneUnavailable as error:
            return f"{attachment.interface}: the program was detached and cannot be attached again: {error}"
        return ""

    def _find_idle(self, system: System) -> tuple[str, ...]:
        devices = (system.devices.get(index) for index in self.indexes)
        return tuple(
            f"{device.name}: the interface is down or has no carrier, so no packets arrive"
            for device in devices
            if device is not None and not device.is_up
        )

    def _needs_generic(self, hosts: Hosts) -> bool:
        """Return whether only generic mode reaches all backends; False if an earlier process left a program."""
        if any(attachment.is_left() for attachment in self._attachments):
            return False
        system, targets = System.read(), find_targets(hosts)
        native, generic = (expect_refusals(system, self.indexes, targets, generic=mode) for mode in (False, True))
        return bool(native) and not generic

    def _ingresses(self, system: System, *, generic: bool) -> list[Ingress]:
        """Return the interfaces. generic: the mode of an interface without a program, if it is configured as auto."""
        found = []
        for index in self.indexes:
            attached = system.devices[index].attached if index in system.devices else 0
            is_generic = attached == GENERIC if attached else generic or self._where == "generic"
            found.append(Ingress(index, is_generic, not self.redirects_only))
        return found

    def _write(self, exits: BpfMap, system: System) -> bool:
        """Update the map of exits. Return whether anything in it has changed."""
        wanted = find_exits(system, self._ingresses(system, generic=self.prefers_generic))
        self._system = system
        for key in self._exits.keys() - wanted.keys():
            exits.delete(EXIT_KEY.pack(**key._asdict()))
        for key, exit_ in wanted.items():
            if self._exits.get(key) != exit_:
                exits.set(EXIT_KEY.pack(**key._asdict()), EXIT.pack(**exit_._asdict()))
        has_changed, self._exits = wanted != self._exits, wanted
        return has_changed


def find_faults(names: Sequence[str], where: str, hosts: Hosts) -> tuple[str, ...]:
    """Return the faults because of which packets would not reach backends. Attach nothing. Raises OSError.

    where: auto, native or generic.
    """
    here = {name: index for index, name in socket.if_nameindex()}
    missing = [f"there is no network interface {name} on this machine" for name in names if name not in here]
    indexes = [here[name] for name in names if name in here]
    system, targets = System.read(), find_targets(hosts)
    refusals = expect_refusals(system, indexes, targets, generic=where == "generic")
    if where == "auto" and refusals and not expect_refusals(system, indexes, targets, generic=True):
        refusals = []
    return (*missing, *map(str, refusals))
