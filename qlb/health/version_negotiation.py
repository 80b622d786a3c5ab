"""The probe ``quic``: one packet of a version that does not exist. A QUIC server answers it and stores nothing.

Each probe has its own connected socket and fresh connection IDs. So only an answer to this packet counts, from the
address to which it was sent. All other datagrams are ignored until the timeout.

Spec: RFC 8999, section 6; RFC 9000, sections 5.2.2 and 6.
"""

import asyncio
import errno
import os
import socket
from typing import Final

from qlb.addresses import Endpoint
from qlb.health.probe import ProbeResult, Target
from qlb.health.verdict import NOT_PERMITTED, own_error
from qlb.wire.versions import PROBE_VERSION, build_probe, parse_version_negotiation, version_name

_CID_BYTES: Final = 8
"""The shortest first destination connection ID (RFC 9000, section 7.2). An attacker off the path cannot guess it."""

_VERSIONS_SHOWN: Final = 4


class _Exchange(asyncio.DatagramProtocol):
    """One packet and the wait for its answer."""

    def __init__(self, endpoint: Endpoint, dcid: bytes, scid: bytes) -> None:
        self.verdict: asyncio.Future[ProbeResult] = asyncio.get_running_loop().create_future()
        self.ignored = 0
        self._transport: asyncio.BaseTransport | None = None
        self._endpoint = endpoint
        self._dcid = dcid
        self._scid = scid

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def end(self) -> None:
        """Close the socket. The caller may not have it: its task can be cancelled while it waits for the transport."""
        if self._transport is not None:
            self._transport.close()

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002 (asyncio's name)
        versions = self._answered(data)
        if not versions:
            self.ignored += 1
            return
        shown = ", ".join(version_name(version) for version in versions[:_VERSIONS_SHOWN])
        more = ", …" if len(versions) > _VERSIONS_SHOWN else ""
        self._decide(ProbeResult(ok=True, detail=f"it answers; it speaks {shown}{more}", reached=True))

    def error_received(self, exc: Exception) -> None:
        self._decide(failure(self._endpoint, exc))

    def _answered(self, datagram: bytes) -> tuple[int, ...]:
        """Return the versions of an answer to our packet; none if the datagram is no such answer.

        An answer that lists the version of our own packet must be ignored (RFC 9000, section 6.2).
        """
        found = parse_version_negotiation(datagram)
        if found is None or found[:2] != (self._scid, self._dcid) or PROBE_VERSION in found[2]:
            return ()
        return found[2]

    def _decide(self, result: ProbeResult) -> None:
        if not self.verdict.done():
            self.verdict.set_result(result)


async def probe_version_negotiation(target: Target, timeout_s: float) -> ProbeResult:
    """Send one packet of an unknown version and wait for the server's Version Negotiation."""
    endpoint = target.endpoint
    dcid, scid = os.urandom(_CID_BYTES), os.urandom(_CID_BYTES)
    exchange = _Exchange(endpoint, dcid, scid)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            transport, _ = await loop.create_datagram_endpoint(lambda: exchange, sock=connected(endpoint))
            transport.sendto(build_probe(dcid, scid))
            return await exchange.verdict
    except TimeoutError:
        return ProbeResult(ok=False, detail=_silence(endpoint, timeout_s, exchange.ignored), doubtful=True, silent=True)
    except OSError as error:
        return failure(endpoint, error)
    finally:
        exchange.end()


def connected(endpoint: Endpoint) -> socket.socket:
    """Open a socket to an address. The event loop does not do this, because uvloop leaks the socket if connect() fails.

    Raises OSError; ENODEV if the interface of a link-local address does not exist.
    """
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.connect(_scoped(endpoint) if "%" in endpoint.host else endpoint)
    except OSError:
        sock.close()
        raise
    return sock


def failure(endpoint: Endpoint, error: Exception) -> ProbeResult:
    """Return the result of a probe that the operating system did not deliver."""
    detail, own = explain_error(endpoint, error), own_error(error)
    if own == NOT_PERMITTED:
        detail = f"{detail} (a local firewall rule, or a full connection tracking table)"
        return ProbeResult(ok=False, detail=detail, doubtful=True, error=own)
    if own:
        return ProbeResult(ok=False, detail=f"not probed, this node's own error: {error}", error=own, void=True)
    refused = isinstance(error, ConnectionRefusedError)
    return ProbeResult(ok=False, detail=detail, reached=refused, refused=refused)


def _scoped(endpoint: Endpoint) -> tuple[str, int, int, int]:
    """Return a link-local address as connect() expects it: the interface as a number."""
    host, _, scope = endpoint.host.partition("%")
    try:
        return host, endpoint.port, 0, int(scope) if scope.isdecimal() else socket.if_nametoindex(scope)
    except OSError as error:
        raise OSError(errno.ENODEV, f"there is no network interface {scope}") from error


def explain_error(endpoint: Endpoint, error: Exception) -> str:
    """Return why the operating system did not deliver a packet."""
    if isinstance(error, ConnectionRefusedError):
        return f"connection refused (ECONNREFUSED): nothing listens on UDP {endpoint}"
    return f"UDP {endpoint} cannot be reached: {error}"


def _silence(endpoint: Endpoint, timeout_s: float, ignored: int) -> str:
    text = f"no answer from UDP {endpoint} within {timeout_s:g} s"
    return f"{text}; {ignored} other datagrams came" if ignored else text
