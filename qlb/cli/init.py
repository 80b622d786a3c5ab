"""``qlb init``: a first configuration with two servers, and the commands that try it."""

import os
import shlex
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import click

from qlb.cli.invocation import own_command, own_python
from qlb.errors import QlbError

_CONFIG: Final = "edge.yaml"
_KEY: Final = "keys/1.hex"
_SERVER: Final = "server.py"
_SERVER_IDS: Final = {"agent-a": "c0ffee01", "agent-b": "c0ffee02"}
"""Name of each backend → its server ID."""
_LISTEN_PORT: Final = 4433
_BACKEND_PORT: Final = 5001
_ADMIN_PORT: Final = 9464
_HOST: Final = "127.0.0.1"
_SOCKET: Final = "qlb.sock"
_MAX_SOCKET_PATH_BYTES: Final = 107
"""Equal to that of qlb.config.rules, which is slow to import. In a folder with a longer path, the default applies."""
_TEMPLATE: Final = """\
# Two servers on this machine behind one address. `qlb schema` describes every key.

listen: ["{host}:{listen}"]              # clients connect here; ["0.0.0.0:443"] is every address

cid_configs:
  - config_id: 1
    server_id_length: 4
    nonce_length: 12
    key_file: keys/1.hex                # a secret, the same on every balancer

backends:
  - name: agent-a
    address: {host}:{first}
    server_ids: {{1: "{agent_a}"}}         # for `qlb server-config edge.yaml agent-a`
  - name: agent-b
    address: {host}:{second}
    server_ids: {{1: "{agent_b}"}}

admin:
  listen: {host}:{admin}                # status page and metrics
{socket}"""
_SOCKET_LINE: Final = f"  socket: {_SOCKET}                      # for qlb status, reload and drain\n"


_SERVER_TEMPLATE: Final = """\
backend: "{name}"
cid_configs:
- config_id: 1
  algorithm: "single-pass"
  server_ids:
  - "{server_id}"
  server_id_length: 4
  nonce_length: 12
  cid_length: 17
  length_self_encoded: false
  key: "{key}"
"""
"""Equal to the output of `qlb server-config`, whose modules take half a second to import. A test compares them."""
_SERVER_SOURCE: Final = Path(__file__).parents[1] / "demo" / "minimal_server.py"


@click.command("init", short_help="Create a first configuration.")
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
def init(folder: Path) -> None:
    """Create a first configuration in the folder DIR, and print the commands that try it.

    The files are edge.yaml, keys/1.hex (mode 0600), the parameters of two servers (mode 0600), and server.py, a small
    HTTP/3 server. No existing file is changed. The ports are free ones of this machine. DIR is created if it does not
    exist; by default it is the current folder.
    """
    paths = [folder / name for name in (_CONFIG, _KEY, *_server_files(), _SERVER)]
    existing = [str(path) for path in paths if os.path.lexists(path)]
    if existing:
        others = f", and {len(existing) - 1} more of the files" if len(existing) > 1 else ""
        raise QlbError(f"{existing[0]} exists already{others}: nothing was written; choose another folder")
    ports = _free_ports()
    created: list[Path] = []
    try:
        _write_all(folder, ports, created)
    except OSError as error:
        for path in reversed(created):
            with suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()
        raise QlbError(f"cannot write {error.filename or folder}: {error.strerror}; nothing was written") from error
    click.echo(_report(folder, ports))


def _server_files() -> tuple[str, ...]:
    return tuple(f"{name}.yaml" for name in _SERVER_IDS)


def _write_all(folder: Path, ports: Mapping[str, int], created: list[Path]) -> None:
    """Write every file. created: gets each new file and folder, in their order. Raises OSError."""
    from qlb.rotation.keys import new_key, write_key

    for parent in (*reversed(folder.parents), folder, (folder / _KEY).parent):
        if not parent.exists():
            parent.mkdir(mode=0o700 if parent.name == "keys" else 0o777)
            created.append(parent)
    key = new_key()
    write_key(folder / _KEY, key)
    created.append(folder / _KEY)
    is_short = len(os.fsencode(os.path.realpath(folder / _SOCKET))) <= _MAX_SOCKET_PATH_BYTES
    server_ids = {name.replace("-", "_"): server_id for name, server_id in _SERVER_IDS.items()}
    text = _TEMPLATE.format(host=_HOST, socket=_SOCKET_LINE if is_short else "", **server_ids, **ports)
    _write(folder / _CONFIG, text, 0o666, created)
    for (name, server_id), file in zip(_SERVER_IDS.items(), _server_files(), strict=True):
        text = _SERVER_TEMPLATE.format(name=name, server_id=server_id, key=key.hex())
        _write(folder / file, text, 0o600, created)
    _write(folder / _SERVER, _SERVER_SOURCE.read_text(), 0o666, created)


def _write(path: Path, text: str, mode: int, created: list[Path]) -> None:
    """Write a new file. mode: before the umask. Raises FileExistsError if the path exists, or another OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    created.append(path)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def _free_ports() -> dict[str, int]:
    """Return the ports of the service, both servers and the admin server: the usual ones, or the next free ones."""
    udp, tcp = socket.SOCK_DGRAM, socket.SOCK_STREAM
    listen = next(_free(_LISTEN_PORT, udp))
    backends = _free(_BACKEND_PORT, udp)
    return {"listen": listen, "first": next(backends), "second": next(backends), "admin": next(_free(_ADMIN_PORT, tcp))}


def _free(first: int, kind: socket.SocketKind) -> Iterator[int]:
    """Yield free ports of the loopback interface, from a first one on."""
    for port in range(first, 1 << 16):
        with socket.socket(socket.AF_INET, kind) as sock:
            if kind == socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((_HOST, port))
            except OSError:
                continue
        yield port


def _report(folder: Path, ports: Mapping[str, int]) -> str:
    """Return the created files and the commands that try them. All commands can be pasted together."""
    from importlib.util import find_spec

    is_here = folder.resolve() == Path.cwd()
    where = None if is_here else folder
    qlb, python = own_command(where), own_python(where)
    commands = [] if is_here else [f"cd {shlex.quote(str(folder))}"]
    if find_spec("aioquic") is None:
        commands.append(f"{python} -m pip install 'qlb[aioquic]'")
    servers = zip(_server_files(), (ports["first"], ports["second"]), strict=True)
    commands += [
        f"{qlb} check {_CONFIG}",
        *(f"{python} {_SERVER} {file} {port} &" for file, port in servers),
        f"{qlb} run {_CONFIG} &",
        f"{qlb} demo get https://{_HOST}:{ports['listen']}/ --rebind 3",
        f"{qlb} status --config {_CONFIG}",
        "kill $(jobs -p)",
    ]
    names = ", ".join((_CONFIG, _KEY, *_server_files(), _SERVER))
    return "\n".join(
        [
            f"Created in {folder}: {names}",
            "",
            "Next, start two servers and the balancer, and change a client's address three times in one connection:",
            "",
            *(f"  {command}" for command in commands),
            "",
            f"{' and '.join(_server_files())} contain the key: give each server its own, and nothing else.",
        ]
    )
