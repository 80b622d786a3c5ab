"""A daemon that is started as by a service manager: with a socket for messages and with stored descriptors."""

import os
import sys
from typing import Final

from lab.daemon import Daemon
from lab.service_manager import Manager

ACTIVATE: Final = """
import fcntl, os, sys
passed = [int(one) for one in sys.argv[1].split(",") if one]
high = [fcntl.fcntl(one, fcntl.F_DUPFD, 100) for one in passed]
for number, one in enumerate(high):
    os.dup2(one, 3 + number)
    os.close(one)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


async def start_managed(daemon: Daemon, manager: Manager) -> None:
    """Start a daemon as a service manager does, with the stored descriptors from descriptor 3 on."""
    stored = manager.descriptors()
    passed = [descriptor for _, descriptor in stored]
    environ = {
        "NOTIFY_SOCKET": manager.name,
        "LISTEN_FDS": str(len(stored)),
        "LISTEN_FDNAMES": ":".join(name for name, _ in stored),
    }
    prefix = (sys.executable, "-c", ACTIVATE, ",".join(map(str, passed)))
    try:
        await daemon.start(environ, passed, prefix)
    finally:
        for descriptor in passed:
            os.close(descriptor)
