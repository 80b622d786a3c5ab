"""A DNS server on loopback with an editable zone: over UDP, and over TCP for truncated answers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

from qlb.addresses import Endpoint


@dataclass
class DnsServer:
    """Records by name (with the final dot) and kind. ttl_s: by kind. questions: those received.

    mood: the failure of a name, or of one kind of its records ("pool.test. AAAA"): silent, nonsense, broken (SERVFAIL)
    or long (truncated over UDP). additional: question → records in the additional section of its answer. waits_for:
    questions for names with this prefix are answered once this number of them is waiting.
    """

    address: Endpoint
    records: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    ttl_s: dict[str, int] = field(default_factory=dict)
    mood: dict[str, str] = field(default_factory=dict)
    additional: dict[tuple[str, str], list[tuple[str, str]]] = field(default_factory=dict)
    waits_for: dict[str, int] = field(default_factory=dict)
    questions: list[tuple[str, str]] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def until_asked(self) -> None:
        """Wait for the next question."""
        self.asked.clear()
        await self.asked.wait()

    def answer(self, question: bytes, *, whole: bool) -> bytes | None:
        """Answer from the zone. whole: over TCP, where answers are not truncated."""
        query = dns.message.from_wire(question)
        name, kind = query.question[0].name.to_text().lower(), query.question[0].rdtype.name
        self.questions.append((name, kind))
        self.asked.set()
        reply = dns.message.make_response(query)
        match self.mood.get(name, self.mood.get(f"{name} {kind}")):
            case "silent":
                return None
            case "nonsense":
                return question[:2] + b"\xff" * 40
            case "broken":
                reply.set_rcode(dns.rcode.SERVFAIL)
                return reply.to_wire()
            case "long" if not whole:
                reply.flags |= dns.flags.TC
                return reply.to_wire()
        if not any(known == name for known, _ in self.records):
            reply.set_rcode(dns.rcode.NXDOMAIN)
        for alias in self.records.get((name, "CNAME"), ()):
            reply.answer.append(dns.rrset.from_text(name, self.ttl_s.get("CNAME", 60), "IN", "CNAME", alias))
            name = alias
        if found := self.records.get((name, kind)):
            reply.answer += _in_order(name, self.ttl_s.get(kind, 60), kind, found)
        for other, other_kind in self.additional.get((name, kind), ()):
            ttl_s, found = self.ttl_s.get(other_kind, 60), self.records[other, other_kind]
            reply.additional += _in_order(other, ttl_s, other_kind, found)
        return reply.to_wire(max_size=65535)

    async def over_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one question."""
        question = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
        reply = self.answer(question, whole=True) or b""
        writer.write(len(reply).to_bytes(2) + reply)
        await writer.drain()
        writer.close()
        await writer.wait_closed()


def _in_order(name: str, ttl_s: int, kind: str, texts: list[str]) -> list[dns.rrset.RRset]:
    """Return one set per record, because dnspython shuffles the records of one set."""
    return [dns.rrset.from_text(name, ttl_s, "IN", kind, text) for text in texts]


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server
        self._waiting: list[tuple[bytes, tuple[str, int]]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer, now or once enough questions are waiting, or not at all."""
        name = dns.message.from_wire(data).question[0].name.to_text()
        prefix = next((prefix for prefix in self._server.waits_for if name.startswith(prefix)), None)
        if prefix is not None:
            self._waiting.append((data, addr))
            if len(self._waiting) >= self._server.waits_for[prefix]:
                waiting, self._waiting = self._waiting, []
                for one in waiting:
                    self._answer(*one)
            return
        self._answer(data, addr)

    def _answer(self, data: bytes, addr: tuple[str, int]) -> None:
        if (reply := self._server.answer(data, whole=False)) is not None:
            self._transport.sendto(reply, addr)


@asynccontextmanager
async def dns_server() -> AsyncIterator[DnsServer]:
    """Run a server with an empty zone."""
    server = DnsServer(Endpoint("127.0.0.1", 0))
    tcp, udp = await _listen(server)
    try:
        yield server
    finally:
        udp.close()
        tcp.close()
        await tcp.wait_closed()


async def _listen(server: DnsServer) -> tuple[asyncio.Server, asyncio.DatagramTransport]:
    """Bind TCP and UDP to one port that is free for both."""
    loop = asyncio.get_running_loop()
    while True:
        tcp = await asyncio.start_server(server.over_tcp, "127.0.0.1", 0)
        host, port = server.address = Endpoint("127.0.0.1", tcp.sockets[0].getsockname()[1])
        try:
            udp, _ = await loop.create_datagram_endpoint(lambda: _Udp(server), (host, port))
        except OSError:
            tcp.close()
            await tcp.wait_closed()
        else:
            return tcp, udp
