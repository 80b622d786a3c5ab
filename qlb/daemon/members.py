"""Who belongs to the pool besides the configuration's own backends: what sources have found, and what has left.

A backend that a source no longer has keeps its connections: it drains, and leaves when no packet has gone to it for a
while. If the source has it again meanwhile, nothing has happened.
"""

import dataclasses
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from qlb.addresses import Endpoint, canonical_address
from qlb.cid.address_ids import server_id_of
from qlb.cid.params import CidParams
from qlb.routing.backends import Backend, BackendState

log = logging.getLogger("qlb")

_NAMED: Final = 5
"""Backends that a log line names; it only counts the others."""


class Members:
    """What sources have brought, by source."""

    def __init__(self) -> None:
        """Nobody yet."""
        self._present: dict[str, tuple[Backend, ...]] = {}
        self._leaving: dict[str, dict[str, Backend]] = {}
        self._from_address: set[str] = set()
        self._refused: frozenset[str] = frozenset()
        self._without_id: frozenset[str] = frozenset()
        self._holders: dict[str, Endpoint] = {}
        """Host → the place that has the server ID which is made of it, where there are several ports on one host."""
        self._sources: dict[str, str] = {}

    def source_of(self, name: str) -> str | None:
        """Return the source of a backend; None for one of the configuration's own."""
        return self._sources.get(name)

    @property
    def present(self) -> Mapping[str, tuple[Backend, ...]]:
        """What each source has had at its last answer."""
        return self._present

    def found(self, source: str, backends: Sequence[Backend]) -> None:
        """Take over what a source has now; what it had before and has no more begins to leave."""
        before = {one.name: one for one in self._present.get(source, ())}
        now = {one.name: one for one in backends}
        leaving = self._leaving.setdefault(source, {})
        leaving |= before
        for name in now:
            leaving.pop(name, None)
        self._present[source] = tuple(backends)
        for name in now.keys() - before.keys():
            log.info("backend discovered", extra={"backend": name, "source": source})
        for name in before.keys() - now.keys():
            log.info("backend left discovery: it drains", extra={"backend": name, "source": source})

    def follow(self, sources: Mapping[str, bool]) -> None:
        """Let the backends of every other source leave.

        sources: name → whether its server IDs are made of addresses.
        """
        self._from_address |= {name for name, from_address in sources.items() if from_address}
        self._from_address -= {name for name, from_address in sources.items() if not from_address}
        for name in self._present.keys() - sources.keys():
            self.found(name, ())

    def remembered(self) -> dict[str, object]:
        """Return everything as plain data, for another process."""
        return {
            source: {
                "from_address": source in self._from_address,
                "present": [_plain(one) for one in self._present.get(source, ())],
                "leaving": [_plain(one) for one in self._leaving.get(source, {}).values()],
            }
            for source in self._names()
        }

    def recall(self, remembered: Mapping[str, Any]) -> None:
        """Begin with what an earlier process knew, until sources answer. Raises ValueError where it is nonsense."""
        try:
            for source, known in remembered.items():
                self._present[source] = tuple(map(_from_plain, known["present"]))
                self._leaving[source] = {one.name: one for one in map(_from_plain, known["leaving"])}
                if known["from_address"]:
                    self._from_address.add(source)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error

    def sweep(self, silence_s: Callable[[str], float | None], quiet_period_s: float) -> bool:
        """Let those go that are leaving and were quiet for so long. Returns whether anybody has gone."""
        gone = False
        for source, leaving in self._leaving.items():
            for name in tuple(leaving):
                silent_s = silence_s(name)
                if silent_s is None or silent_s >= quiet_period_s:
                    del leaving[name]
                    gone = True
                    log.info("backend has left", extra={"backend": name, "source": source})
        return gone

    def merged(self, own: Sequence[Backend], params: Sequence[CidParams]) -> tuple[Backend, ...]:
        """Return all backends: the configuration's own, and those members that take no name or server ID of theirs.

        params: what server IDs are made for, where they are made of addresses.
        """
        merged = list(own)
        taken = {one.name for one in own}
        owners = {one: backend.endpoint for backend in own for one in _ids(backend)}
        holders: dict[str, Endpoint] = {}
        refused, without_id, sources = set(), set(), {}
        members = self._in_order()
        there = {member.endpoint for _, member in members}
        for source, member in members:
            backend = _with_ids(member, params, from_address=source in self._from_address)
            if source in self._from_address:
                if self._shares_host(backend, owners, there):
                    backend = dataclasses.replace(backend, server_ids={})
                    without_id.add(backend.name)
                else:
                    holders[backend.endpoint.host] = backend.endpoint
            if backend.name in taken or _ids(backend) & owners.keys():
                refused.add(backend.name)
                continue
            taken.add(backend.name)
            owners |= dict.fromkeys(_ids(backend), backend.endpoint)
            sources[backend.name] = source
            merged.append(backend)
        for name in sorted(refused - self._refused):
            log.warning("a discovered backend has the name or a server ID of another one", extra={"backend": name})
        self._log_without_id(without_id - refused)
        self._refused, self._sources, self._holders = frozenset(refused), sources, holders
        return tuple(merged)

    def _shares_host(
        self, backend: Backend, owners: Mapping[tuple[int, bytes], Endpoint], there: Collection[Endpoint]
    ) -> bool:
        """Whether another port of a backend's address has the server ID that is made of the address.

        The port that has it keeps it while it is there, since its connections carry it. Otherwise the first in order
        gets it, so that all balancers choose the same.
        """
        place = backend.endpoint
        others = {owners[one] for one in _ids(backend) if one in owners}
        if (holder := self._holders.get(place.host)) in there and holder is not None:
            others.add(holder)
        return place not in others and any(other.host == place.host for other in others)

    def _log_without_id(self, without_id: set[str]) -> None:
        new = sorted(without_id - self._without_id)
        if new:
            log.warning(
                "backends without a server ID: another port of their address has it; they get new connections, "
                "and must not issue connection IDs with it",
                extra={"backends": ", ".join(new[:_NAMED]), "count": len(new)},
            )
        self._without_id = frozenset(without_id)

    def _names(self) -> list[str]:
        return sorted(self._present.keys() | self._leaving.keys())

    def _in_order(self) -> list[tuple[str, Backend]]:
        """Return those that are there before those that leave: a new one may have the server ID of an old one."""
        present = [(source, one) for source in self._names() for one in self._present.get(source, ())]
        leaving = [
            (source, dataclasses.replace(one, state=BackendState.DRAINING))
            for source in self._names()
            for one in self._leaving.get(source, {}).values()
        ]
        return [*present, *leaving]


def _ids(backend: Backend) -> set[tuple[int, bytes]]:
    return {(n, server_id) for n, own_ids in backend.server_ids.items() for server_id in own_ids}


def _with_ids(backend: Backend, params: Sequence[CidParams], *, from_address: bool) -> Backend:
    """Return a backend with the server IDs that the configurations of now can decode to it."""
    if from_address:
        hosts = (backend.endpoint.host, *backend.other_hosts)
        ids: Mapping[int, tuple[bytes, ...]] = {
            one.config_id: tuple(dict.fromkeys(server_id_of(host, one.server_id_length) for host in hosts))
            for one in params
        }
    else:
        lengths = {one.config_id: one.server_id_length for one in params}
        fitting = {
            n: tuple(one for one in own_ids if len(one) == lengths.get(n)) for n, own_ids in backend.server_ids.items()
        }
        ids = {n: own_ids for n, own_ids in fitting.items() if own_ids}
    return dataclasses.replace(backend, server_ids=ids)


def _plain(backend: Backend) -> dict[str, object]:
    return {
        "name": backend.name,
        "host": backend.endpoint.host,
        "port": backend.endpoint.port,
        "weight": backend.weight,
        "state": str(backend.state),
        "other_hosts": list(backend.other_hosts),
        "server_ids": {str(n): [one.hex() for one in ids] for n, ids in backend.server_ids.items()},
    }


def _from_plain(found: Mapping[str, Any]) -> Backend:
    server_ids = {int(n): tuple(map(bytes.fromhex, ids)) for n, ids in found["server_ids"].items()}
    other_hosts = tuple(map(str, found.get("other_hosts", ())))  # releases before 0.2 had none
    return Backend(
        str(found["name"]),
        Endpoint(str(canonical_address(str(found["host"]))), int(found["port"])),
        server_ids,
        int(found["weight"]),
        BackendState(found["state"]),
        other_hosts=other_hosts,
    )
