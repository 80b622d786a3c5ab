"""What a service manager is told: one datagram for each message, to the Unix socket that NOTIFY_SOCKET names.

Where no manager is, or it does not listen, telling it does nothing: the daemon does not depend on it.

Spec: sd_notify(3) of systemd.
"""

import os
import socket
from collections.abc import MutableMapping, Sequence
from contextlib import suppress
from typing import Final

_SOCKET: Final = "NOTIFY_SOCKET"
_WATCHDOG_USEC: Final = "WATCHDOG_USEC"
_WATCHDOG_PID: Final = "WATCHDOG_PID"
_TIMEOUT_S: Final = 0.5
"""How long a manager may leave its queue full until a message is given up."""
_US: Final = 1_000_000


class Notifier:
    """The way to the manager that has started this process, if any."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        """environ: of this process; what concerns the manager is taken out, so that no child speaks for this one."""
        self._name = environ.pop(_SOCKET, "")
        microseconds = environ.pop(_WATCHDOG_USEC, "")
        watched = environ.pop(_WATCHDOG_PID, "") or str(os.getpid())
        is_watched = watched == str(os.getpid()) and microseconds.isdecimal()
        self.watchdog_s: float | None = int(microseconds) / _US if is_watched and int(microseconds) else None
        """The manager wants a sign of life once in this time; None: it does not."""

    @property
    def has_manager(self) -> bool:
        """Whether there is anybody to tell."""
        return bool(self._name)

    @property
    def environ(self) -> dict[str, str]:
        """What the process that takes this one's place needs to speak to the same manager."""
        if not self._name:
            return {}
        watchdog = {_WATCHDOG_USEC: str(round(self.watchdog_s * _US))} if self.watchdog_s else {}
        return {_SOCKET: self._name, **watchdog}

    def tell(self, descriptors: Sequence[int] = (), **fields: str | int) -> None:
        """Send one message. fields: such as READY=1, STATUS="..."; a line break in a value becomes a space."""
        if not self._name:
            return
        lines = [f"{name}={' '.join(str(value).splitlines())}" for name, value in fields.items()]
        message = "\n".join(lines).encode(errors="replace")
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(_TIMEOUT_S)
            sock.connect(f"\0{self._name[1:]}" if self._name.startswith("@") else self._name)
            if descriptors:
                socket.send_fds(sock, [message], descriptors)
            else:
                sock.send(message)

    def leave(self) -> None:
        """Tell nothing any more: another process speaks for the service."""
        self._name = ""
        self.watchdog_s = None
