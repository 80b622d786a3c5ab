"""The backends that discovery adds to the pool, and the backends that are excluded because they are this daemon.

A backend that a source no longer lists keeps its connections: it drains, and is removed after no packet has gone to it
for a while. If the source lists it again before that, it is active again.
"""

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import copy
from typing import Any, Final

from qlb.addresses import Endpoint, canonical_address
from qlb.cid.address_ids import server_id_of
from qlb.cid.params import CidParams
from qlb.local_addresses import FindLocal, find_loops, local_hosts
from qlb.routing.backends import MAX_BACKENDS, Backend, BackendIndexes, BackendState

log = logging.getLogger("qlb")

_NAMED: Final = 5
"""The number of backends that a log line names. The line only counts the others."""


class Members:
    """The backends that sources have found, by source."""

    def __init__(self) -> None:
        """Start without backends."""
        self._present: dict[str, tuple[Backend, ...]] = {}
        self._leaving: dict[str, dict[str, Backend]] = {}
        self._from_address: set[str] = set()
        self._refused: frozenset[str] = frozenset()
        self._without_id: frozenset[str] = frozenset()
        self._holders: dict[str, Endpoint] = {}
        """Host → the endpoint that has the server ID made of the host, if several ports share the host."""
        self._sources: dict[str, str] = {}
        self._remembered: Mapping[str, object] | None = None
        """The last result of remembered(), if it still applies. With 30,000 backends it takes 0.3 s to make."""

    def copy(self) -> "Members":
        """Return an independent copy."""
        other = copy(self)
        other._present, other._from_address = dict(self._present), set(self._from_address)
        other._leaving = {source: dict(leaving) for source, leaving in self._leaving.items()}
        return other

    def source_of(self, name: str) -> str | None:
        """Return the source of a backend; None if the configuration itself lists the backend."""
        return self._sources.get(name)

    @property
    def present(self) -> Mapping[str, tuple[Backend, ...]]:
        """The backends of each source's last update."""
        return self._present

    def found(self, source: str, backends: Sequence[Backend]) -> None:
        """Apply an update of a source. Backends that it no longer lists start to leave."""
        self._remembered = None
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
        """Let the backends of all other sources leave.

        sources: name → whether the source's server IDs are made of addresses.
        """
        self._remembered = None
        self._from_address |= {name for name, from_address in sources.items() if from_address}
        self._from_address -= {name for name, from_address in sources.items() if not from_address}
        for name in self._present.keys() - sources.keys():
            self.found(name, ())

    def remembered(self) -> Mapping[str, object]:
        """Return the content as plain data, for another process."""
        if self._remembered is None:
            self._remembered = {
                source: {
                    "from_address": source in self._from_address,
                    "present": [_plain(one) for one in self._present.get(source, ())],
                    "leaving": [_plain(one) for one in self._leaving.get(source, {}).values()],
                }
                for source in self._names()
            }
        return self._remembered

    def recall(self, remembered: Mapping[str, Any]) -> None:
        """Start with the content of an earlier process, until sources respond. Raises ValueError if it is malformed."""
        self._remembered = None
        try:
            for source, known in remembered.items():
                self._present[source] = tuple(map(_from_plain, known["present"]))
                self._leaving[source] = {one.name: one for one in map(_from_plain, known["leaving"])}
                if known["from_address"]:
                    self._from_address.add(source)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error

    def quiet(self, silence_s: Callable[[str], float | None], quiet_period_s: float) -> list[tuple[str, str]]:
        """Return the source and name of each leaving backend that has got no packet for a quiet period, or never.

        silence_s: returns the seconds since the last packet to a backend, None if there was none.
        """
        silences = ((source, name, silence_s(name)) for source, leaving in self._leaving.items() for name in leaving)
        return [(source, name) for source, name, silent_s in silences if silent_s is None or silent_s >= quiet_period_s]

    def sweep(self, silence_s: Callable[[str], float | None], quiet_period_s: float) -> bool:
        """Remove the backends that quiet() returns. Returns whether there were any."""
        quiet = self.quiet(silence_s, quiet_period_s)
        self._remembered = None
        for source, name in quiet:
            del self._leaving[source][name]
            log.info("backend has left", extra={"backend": name, "source": source})
        return bool(quiet)

    def merged(self, own: Sequence[Backend], params: Sequence[CidParams]) -> tuple[Backend, ...]:
        """Return own, and the discovered backends that have no name and no server ID of another backend.

        own: the configuration's own backends. params: used for server IDs that are made of addresses.
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
        """Return whether another port of a backend's host has the server ID that is made of the host.

        A port that has the ID retains it while it is present, since its connections carry the ID. Otherwise the first
        port in order gets it, so that all balancers choose the same one.
        """
        endpoint = backend.endpoint
        others = {owners[one] for one in _ids(backend) if one in owners}
        if (holder := self._holders.get(endpoint.host)) in there and holder is not None:
            others.add(holder)
        return endpoint not in others and any(other.host == endpoint.host for other in others)

    def _log_without_id(self, without_id: set[str]) -> None:
        if new := sorted(without_id - self._without_id):
            log.warning(
                "backends without a server ID: another port of their address has it; they get new connections, "
                "and must not issue connection IDs with it",
                extra={"backends": ", ".join(new[:_NAMED]), "count": len(new)},
            )
        self._without_id = frozenset(without_id)

    def _names(self) -> list[str]:
        return sorted(self._present.keys() | self._leaving.keys())

    def _in_order(self) -> list[tuple[str, Backend]]:
        """Return present backends before leaving ones: a new one may have the server ID of an old one."""
        present = [(source, one) for source in self._names() for one in self._present.get(source, ())]
        leaving = [
            (source, dataclasses.replace(one, state=BackendState.DRAINING))
            for source in self._names()
            for one in self._leaving.get(source, {}).values()
        ]
        return [*present, *leaving]


class Loops:
    """The backends that are this daemon itself. Packets to them would loop."""

    def __init__(self, listen: Sequence[Endpoint], find_local: FindLocal = local_hosts) -> None:
        """listen: the service's addresses. find_local: finds the machine's addresses."""
        self.listen = tuple(listen)
        self._find_local = find_local
        self._known: dict[str, bool] = {}
        """The host of a backend → whether it is an address of this machine, as of the last check."""
        self.excluded: Mapping[str, str] = {}
        """Backend name → the reason why it gets no packets."""

    def exclude(self, backends: Iterable[Backend]) -> frozenset[str]:
        """Return the names of the backends that must get no packets. Logs each change once."""
        by_name = {one.name: one.endpoint for one in backends}
        asked: set[str] = set()

        def find_known(hosts: Iterable[str]) -> frozenset[str]:
            asked.update(hosts)
            new = asked - self._known.keys()
            local = self._find_local(new) if new else frozenset()
            self._known = self._known | {host: host in local for host in new}
            return frozenset(host for host in asked if self._known[host])

        loops = find_loops(by_name.values(), self.listen, find_known)
        self._known = {host: self._known[host] for host in asked}
        before = self.excluded
        self.excluded = {name: _why(one, loops[one]) for name, one in by_name.items() if one in loops}
        for name in sorted(self.excluded.keys() - before.keys()):
            log.warning("backend excluded: it is this balancer", extra={"backend": name, "reason": self.excluded[name]})
        for name in sorted((before.keys() - self.excluded.keys()) & by_name.keys()):
            log.info("backend no longer excluded", extra={"backend": name, "address": str(by_name[name])})
        return frozenset(self.excluded)

    async def check(self) -> Mapping[str, bool]:
        """Check, in a thread, which hosts are this machine's. Return the hosts whose answer has changed, with it."""
        hosts = tuple(self._known)
        local = await asyncio.to_thread(self._find_local, hosts) if hosts else frozenset()
        return {host: host in local for host in hosts if self._known.get(host) not in (None, host in local)}

    def note(self, changed: Mapping[str, bool]) -> None:
        """Apply a result of check()."""
        self._known = self._known | {host: local for host, local in changed.items() if host in self._known}


def _why(backend: Endpoint, service: Endpoint) -> str:
    return f"{backend} is an address of this machine on which it listens ({service}): packets would loop"


def fitting(backends: Sequence[Backend], own: int, indexes: BackendIndexes) -> Sequence[Backend]:
    """Leave out discovered backends for which no index is free. own: the first so many are the configuration's."""
    names = set(indexes.names)
    new = [one.name for one in backends[own:] if one.name not in names]
    room = indexes.room - len({one.name for one in backends[:own]} - names)
    if len(new) <= room:
        return backends
    log.error("discovered backends are left out: more than %d are there or left a short while ago", MAX_BACKENDS)
    left_out = set(new[max(room, 0) :])
    return [one for one in backends if one.name not in left_out]


def _ids(backend: Backend) -> set[tuple[int, bytes]]:
    return {(n, server_id) for n, own_ids in backend.server_ids.items() for server_id in own_ids}


def _with_ids(backend: Backend, params: Sequence[CidParams], *, from_address: bool) -> Backend:
    """Return a backend with the server IDs that the current CID configs can decode to it."""
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
