"""The floor of a forwarder in Python: receive, one connected socket a client, send; no QUIC at all.

``python -m benchmarks.forwarders.relay_loop LISTEN_PORT BACKEND_PORT`` forwards both ways until it is killed.
"""

import asyncio
import socket
import sys

import uvloop


class Relay:
    """Forward from one port to another and back."""

    def __init__(self, listen_port: int, backend_port: int) -> None:
        """Bind and begin."""
        self.loop = asyncio.get_running_loop()
        self.backend_port = backend_port
        self.sessions: dict[tuple[str, int], socket.socket] = {}
        self.listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.listener.setblocking(False)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.listener.bind(("127.0.0.1", listen_port))
        self.loop.add_reader(self.listener, self.on_client)

    def on_client(self) -> None:
        """Forward what clients sent."""
        for _ in range(64):
            try:
                datagram, client = self.listener.recvfrom(65535)
            except BlockingIOError:
                return
            session = self.sessions.get(client) or self.open(client)
            session.send(datagram)

    def open(self, client: tuple[str, int]) -> socket.socket:
        """Open the way back for a client."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.connect(("127.0.0.1", self.backend_port))
        self.sessions[client] = sock
        self.loop.add_reader(sock, self.on_backend, sock, client)
        return sock

    def on_backend(self, sock: socket.socket, client: tuple[str, int]) -> None:
        """Forward what the backend answered."""
        for _ in range(64):
            try:
                datagram = sock.recv(65535)
            except BlockingIOError:
                return
            self.listener.sendto(datagram, client)


async def main() -> None:
    """Run until killed."""
    relay = Relay(int(sys.argv[1]), int(sys.argv[2]))
    print("ready", flush=True)
    await asyncio.Event().wait()
    relay.listener.close()


if __name__ == "__main__":
    uvloop.run(main())
