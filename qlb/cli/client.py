"""Requests to a running daemon over its control socket, and the options that find this socket."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from qlb.errors import ConfigError, QlbError

CONFIG: Final = click.Path(path_type=Path)
"""The parameter type of a configuration's path."""
_TIMEOUT_S: Final = 30.0
_BALANCER_TIMEOUT_S: Final = 5.0
_COMPLETION_TIMEOUT_S: Final = 0.5
"""A shell waits for the candidates, so a daemon that is slow to answer has none."""
_DEFAULT_SOCKET: Final = "/run/qlb/qlb.sock"
_ENVIRONMENT: Final = "QLB_SOCKET"

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

socket_option = click.option(
    "--socket",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Control socket of the daemon, instead of admin.socket in the configuration.",
)
"""For commands that have a configuration anyway."""


config_option = click.option(
    "--config",
    "_config",
    type=CONFIG,
    metavar="FILE",
    expose_value=False,
    help="Configuration, instead of the argument CONFIG.",
)
"""For a ConfigCommand."""


class ConfigCommand(click.Command):
    """A command with an argument CONFIG in front, which may also be given as ``--config FILE``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Move the value of --config to the front, where CONFIG belongs."""
        for index, word in enumerate(args):
            name, equals, value = word.partition("=")
            if name == "--config" and (equals or index + 1 < len(args)):
                rest = args[index + 1 if equals else index + 2 :]
                return super().parse_args(ctx, [value if equals else args[index + 1], *args[:index], *rest])
        return super().parse_args(ctx, args)


def daemon_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add --config and --socket to a command that talks to a daemon, and pass it the socket's path as ``path``."""

    @click.option(
        "--config",
        type=CONFIG,
        metavar="FILE",
        help="Configuration of the daemon; its admin.socket is the control socket.",
    )
    @click.option(
        "--socket",
        type=click.Path(path_type=Path),
        metavar="PATH",
        help="Control socket of the daemon; overrides --config.  "
        f"[env var: {_ENVIRONMENT}; default: {_DEFAULT_SOCKET}]",
    )
    @functools.wraps(command)
    def with_path(config: Path | None, socket: Path | None, **options: object) -> None:
        command(path=find_socket(config, socket), **options)

    return with_path


def find_socket(config: Path | None, socket: Path | None) -> Path:
    """Return the control socket: the given path, or that of the configuration, the environment, or the default.

    An option counts more than the environment. Raises ConfigError if the configuration names no control socket.
    """
    if socket is not None:
        return socket
    if config is not None:
        return _configured_socket(config)
    return Path(os.environ.get(_ENVIRONMENT) or _DEFAULT_SOCKET)


def _configured_socket(config: Path) -> Path:
    """Return the admin.socket of a configuration.

    Reads no key file and accepts mistakes elsewhere: the daemon still runs after a reload that refused the file.
    """
    from qlb.config.load import decode, read_octets
    from qlb.config.names import PATH
    from qlb.config.problems import Problems
    from qlb.config.rules import socket_path
    from qlb.config.scalars import ScalarError
    from qlb.config.tree import MappingNode, ScalarNode, parse

    problems = Problems(config)
    root = parse(decode(read_octets(config, problems)[0], config), problems)
    admin = root.get("admin")
    node = admin.get("socket") if isinstance(admin, MappingNode) else None
    if node is None:
        raise ConfigError(f"{config}: admin.socket is not set, so its daemon has no control socket; set it and restart")
    try:
        return socket_path(config.parent, PATH.parse(node.text if isinstance(node, ScalarNode) else ""))
    except ScalarError as error:
        reason = str(error)
    raise problems.failure(node.mark, f"admin.socket: {reason}")


def ask(path: Path, method: str, target: str, *, timeout_s: float = _TIMEOUT_S) -> tuple[int, Any]:
    """Send a request and return (HTTP status, decoded JSON). Raises QlbError if no daemon answers."""
    import http.client
    import json
    import socket

    class UnixConnection(http.client.HTTPConnection):
        """HTTP over a Unix socket."""

        def connect(self) -> None:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(timeout_s)
            self.sock.connect(str(path))

    connection = UnixConnection("localhost")
    try:
        connection.request(method, target)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise QlbError(
            f"no daemon answers at {path}: {error}; give its configuration with --config, or its control socket "
            "with --socket"
        ) from error
    finally:
        connection.close()


def ask_balancer(name: str) -> dict[str, Any]:
    """Return the status of a balancer. name: http://ADDRESS:PORT, or the absolute path of a control socket."""
    if name.startswith("/"):
        answer = ask(Path(name), "GET", "/status")[1]
    else:
        import json
        from urllib.request import ProxyHandler, build_opener

        # Balancers are in the operator's own network: the proxies of the environment do not apply.
        opener = build_opener(ProxyHandler({}))
        try:
            with opener.open(f"{name}/status", timeout=_BALANCER_TIMEOUT_S) as response:
                answer = json.load(response)
        except (OSError, ValueError) as error:
            raise QlbError(f"balancer {name} does not answer ({error}): its CID configs are unknown") from error
    if not isinstance(answer, dict):
        raise QlbError(f"balancer {name} returns no status")
    return answer


def complete_backend(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the names of the daemon's backends that begin with a text. For `undrain`, those that are draining.

    Returns nothing if no daemon answers: a shell that completes must show no errors.
    """
    options = context.params
    try:
        path = find_socket(options.get("config"), options.get("socket"))
        _, answer = ask(path, "GET", "/status", timeout_s=_COMPLETION_TIMEOUT_S)
        rows = [(str(row["name"]), row["state"] == "draining") for row in answer["backends"]]
    except (ConfigError, QlbError, KeyError, TypeError, OSError):
        return []
    wanted = context.info_name == "undrain"
    return [name for name, is_draining in rows if is_draining == wanted and name.startswith(incomplete)]


def complete_configured_backend(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the names of the backends in the file CONFIG that begin with a text. Reads no key files."""
    from qlb.config.load import load

    config = context.params.get("config")
    if config is None:
        return []
    try:
        found = load(Path(config), with_keys=False).config.backends
    except (ConfigError, OSError):
        return []
    return [backend.name for backend in found if backend.name.startswith(incomplete)]
