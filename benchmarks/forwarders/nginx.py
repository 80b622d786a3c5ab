"""nginx with its stream module, tuned for UDP as its documentation recommends.

One worker; reuseport; multi_accept, without which nginx reads one datagram per event; enough worker connections for
every session. A session lasts as long as qlb's, however many answers there are: proxy_responses is not set.
The access log is off.
"""

import re
import shutil
import subprocess
from collections.abc import Collection
from pathlib import Path
from typing import Final

from benchmarks.forwarders.base import Missing, Place
from benchmarks.points import Point
from benchmarks.processes import children

_PATHS: Final = "/usr/sbin:/usr/local/sbin:/usr/local/nginx/sbin"
_CONNECTIONS: Final = 32_768
_FILE: Final = """{module}
daemon off;
worker_processes 1;
worker_rlimit_nofile 65536;
pid {folder}/nginx.pid;
error_log stderr crit;
events {{
    worker_connections {connections};
    multi_accept on;
}}
stream {{
    access_log off;
    upstream backends {{
        hash $remote_addr$remote_port consistent;
{servers}
    }}
    server {{
        listen 127.0.0.1:{port} udp reuseport rcvbuf=4m;
        proxy_pass backends;
        proxy_timeout 120s;
    }}
}}
"""


class Nginx:
    """nginx, with a built-in or a loadable stream module."""

    name = "nginx"

    def command(self, place: Place, point: Point) -> list[str]:  # noqa: ARG002
        """Write nginx.conf, and return the command."""
        return nginx_command(place)

    def pids(self, pid: int, place: Place) -> list[int]:  # noqa: ARG002
        """Return the worker; the master moves no packet."""
        return children(pid)


def nginx_command(place: Place, down: Collection[int] = ()) -> list[str]:
    """Write nginx.conf, and return the command. down: ports of drained backends. Raises Missing."""
    program = shutil.which("nginx") or shutil.which("nginx", path=_PATHS)
    if program is None:
        raise Missing("nginx is not installed")
    servers = "\n".join(f"        server 127.0.0.1:{port}{' down' * (port in down)};" for port in place.backends)
    path = place.folder / "nginx.conf"
    path.write_text(
        _FILE.format(
            module=_module(program), folder=place.folder, connections=_CONNECTIONS, servers=servers, port=place.port
        )
    )
    return [program, "-e", "stderr", "-p", str(place.folder), "-c", str(path)]


def _module(program: str) -> str:
    """Return the line that loads the stream module, empty if the module is built in. Raises Missing."""
    built = subprocess.run([program, "-V"], check=True, capture_output=True, text=True).stderr
    if re.search(r"--with-stream(\s|$)", built):
        return ""
    folder = re.search(r"--modules-path=(\S+)", built)
    module = Path(folder[1] if folder else "/usr/lib/nginx/modules", "ngx_stream_module.so")
    if not module.exists():
        raise Missing("nginx's stream module is not installed (Debian: libnginx-mod-stream)")
    return f"load_module {module};"
