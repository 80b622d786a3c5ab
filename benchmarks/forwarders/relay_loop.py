"""A minimal forwarder in Python, as a floor: one connected socket per client, and no QUIC.

``python -m benchmarks.forwarders.relay_loop LISTEN_PORT BACKEND_PORT`` forwards in both directions on 127.0.0.1,
until it is killed. It prints ``ready`` when it listens.
"""

import asyncio
import socket

import uvloop

from benchmarks.options import command_line


class Relay:
    """A forwarder from one port to another and back."""

    def __init__(self, listen_port: int, backend_port: int) -> None:
        """Bind the port and start to forward."""
        self.loop = asyncio.get_running_loop()
        self.backend_port = backend_port
        self.sessions: dict[tuple[str, int], socket.socket] = {}
        self.listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.listener.setblocking(False)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.listener.bind(("127.0.0.1", listen_port))
        self.loop.add_reader(self.listener, self.on_client)

    def on_client(self) -> None:
        """Forward datagrams from clients, at most 64."""
        for _ in range(64):
            try:
                datagram, client = self.listener.recvfrom(65535)
            except BlockingIOError:
                return
            session = self.sessions.get(client) or self.open(client)
            session.send(datagram)

    def open(self, client: tuple[str, int]) -> socket.socket:
        """Open the session of a client: its socket to the backend."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.connect(("127.0.0.1", self.backend_port))
        self.sessions[client] = sock
        self.loop.add_reader(sock, self.on_backend, sock, client)
        return sock

    def on_backend(self, sock: socket.socket, client: tuple[str, int]) -> None:
        """Forward the backend's answers, at most 64."""
        for _ in range(64):
            try:
                datagram = sock.recv(65535)
            except BlockingIOError:
                return
            self.listener.sendto(datagram, client)


async def main(listen_port: int, backend_port: int) -> None:
    """Forward until the process is killed."""
    relay = Relay(listen_port, backend_port)
    print("ready", flush=True)
    await asyncio.Event().wait()
    relay.listener.close()


if __name__ == "__main__":
    parser = command_line("benchmarks.forwarders.relay_loop", __doc__)
    parser.add_argument("listen_port", type=int)
    parser.add_argument("backend_port", type=int)
    options = parser.parse_args()
    uvloop.run(main(options.listen_port, options.backend_port))
