"""Requests to a running daemon over its control socket, and the options that find this socket."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import click

from qlb import default_socket
from qlb.errors import ConfigError, QlbError

CONFIG: Final = click.Path(path_type=Path)
"""The parameter type of a configuration's path."""
_TIMEOUT_S: Final = 30.0
_BALANCER_TIMEOUT_S: Final = 5.0
_COMPLETION_TIMEOUT_S: Final = 0.5
"""A shell waits for the candidates, so a daemon that is slow to answer has none."""
_SOCKET_VARIABLE: Final = "QLB_SOCKET"
CONFIG_VARIABLE: Final = "QLB_CONFIG"
"""The environment variable that replaces --config."""
_CONFIG_OPTIONS: Final = ("--config", "-c")
_MISDIRECTED: Final = 421
_CONFIGURATION_HEADER: Final = "Qlb-Configuration"
"""Equal to CONFIGURATION_HEADER of qlb.admin.routes, which is slow to import."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

socket_option = click.option(
    "--socket",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Control socket of the daemon, instead of admin.socket in the configuration.",
)
"""For commands that have a configuration anyway."""


config_option = click.option(
    *_CONFIG_OPTIONS,
    "_config",
    type=CONFIG,
    metavar="FILE",
    expose_value=False,
    help=f"Configuration, instead of the argument CONFIG.  [env var: {CONFIG_VARIABLE}]",
)
"""For a ConfigCommand."""


class ConfigCommand(click.Command):
    """A command with an argument CONFIG in front, which may also be given as ``--config FILE`` or in QLB_CONFIG."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Move the value of --config, or of the environment if CONFIG is missing, to the front."""
        for index, word in enumerate(args):
            name, equals, value = word.partition("=")
            if name in _CONFIG_OPTIONS and (equals or index + 1 < len(args)):
                rest = args[index + 1 if equals else index + 2 :]
                return super().parse_args(ctx, [value if equals else args[index + 1], *args[:index], *rest])
        configured = os.environ.get(CONFIG_VARIABLE)
        if configured and not ctx.resilient_parsing and self._lacks_argument(ctx, args):
            return super().parse_args(ctx, [configured, *args])
        return super().parse_args(ctx, args)

    def _lacks_argument(self, ctx: click.Context, args: list[str]) -> bool:
        """Return whether the command line has fewer arguments than the command."""
        try:
            values, _, _ = self.make_parser(ctx).parse_args(list(args))
        except click.UsageError:
            return False  # the command itself reports it
        last = [parameter.name for parameter in self.params if isinstance(parameter, click.Argument)][-1]
        return not isinstance(values.get(last or ""), str)


def daemon_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add --config and --socket to a command that talks to a daemon, and pass it the socket's path as ``path``."""

    @click.option(
        *_CONFIG_OPTIONS,
        type=CONFIG,
        metavar="FILE",
        help=f"Configuration of the daemon, which names its control socket.  [env var: {CONFIG_VARIABLE}]",
    )
    @click.option(
        "--socket",
        type=click.Path(path_type=Path),
        metavar="PATH",
        help="Control socket of the daemon; overrides --config.  "
        f"[env var: {_SOCKET_VARIABLE}; default: {default_socket.SYSTEM_FOLDER / default_socket.NAME}, or "
        f"$XDG_RUNTIME_DIR/{default_socket.NAME}]",
    )
    @functools.wraps(command)
    def with_path(config: Path | None, socket: Path | None, **options: object) -> None:
        command(path=find_socket(config, socket), **options)

    return with_path


def find_socket(config: Path | None, socket: Path | None) -> Path:
    """Return the control socket: the given path, or that of the configuration, the environment, or the default.

    An option counts more than the environment, and a socket more than a configuration. Raises ConfigError if the
    configuration turns its control socket off, QlbError if the daemon at the default socket runs another one.
    """
    if socket is not None:
        return socket
    if config is None and (named := os.environ.get(_SOCKET_VARIABLE)):
        return Path(named)
    if config is None and (named := os.environ.get(CONFIG_VARIABLE)):
        config = Path(named)
    if config is None:
        return default_socket.find(os.environ)
    configured = _configured_socket(config)
    if configured is None:
        return _default_of(config)
    return configured


def socket_of(config: Path, configured: Path | Literal["none"] | None) -> Path | None:
    """Return the control socket of a loaded configuration's daemon; None if it has none or does not run.

    config: the file. configured: its admin.socket.
    """
    if configured == default_socket.OFF:
        return None
    if configured is not None:
        return Path(configured)
    try:
        found = _default_of(config)
    except QlbError:
        return None
    return found if found.is_socket() else None


def _default_of(config: Path) -> Path:
    """Return the default control socket for a configuration. Raises QlbError if the daemon there runs another one."""
    from urllib.parse import quote

    path = default_socket.find(os.environ)
    wanted = quote(os.fsencode(os.path.realpath(config)))
    status, text = _exchange(path, "GET", "/healthz", headers={_CONFIGURATION_HEADER: wanted})
    if status == _MISDIRECTED:
        raise QlbError(
            f"{text} at {path}, not {config}: the daemon of {config} has no control socket, or does not run; set "
            "admin.socket in each configuration if several daemons run on this machine"
        )
    return path


def _configured_socket(config: Path) -> Path | None:
    """Return the admin.socket of a configuration; None if it names none.

    Reads no key file and accepts mistakes elsewhere: the daemon still runs after a reload that refused the file.
    Raises ConfigError if the socket is turned off.
    """
    from qlb.config.load import decode, read_octets
    from qlb.config.problems import Problems
    from qlb.config.rules import socket_path
    from qlb.config.scalars import ScalarError
    from qlb.config.sections import SOCKET
    from qlb.config.tree import MappingNode, ScalarNode, parse

    problems = Problems(config)
    root = parse(decode(read_octets(config, problems)[0], config), problems)
    admin = root.get("admin")
    node = admin.get("socket") if isinstance(admin, MappingNode) else None
    if node is None:
        return None
    try:
        value = SOCKET.parse(node.text if isinstance(node, ScalarNode) else "")
    except ScalarError as error:
        reason = str(error)
    else:
        if isinstance(value, Path):
            return socket_path(config.parent, value)
        reason = "none, so its daemon has no control socket; name a path there and restart it"
    raise problems.failure(node.mark, f"admin.socket: {reason}")


def ask(path: Path, method: str, target: str, *, timeout_s: float = _TIMEOUT_S) -> tuple[int, Any]:
    """Send a request and return (HTTP status, decoded JSON). Raises QlbError if no daemon answers."""
    import json

    status, text = _exchange(path, method, target, timeout_s=timeout_s)
    try:
        return status or 0, json.loads(text)
    except ValueError as error:
        reason = str(error) if status else text
    raise QlbError(
        f"no daemon answers at {path}: {reason}; give its configuration with --config, or its control socket "
        "with --socket"
    )


def _exchange(
    path: Path, method: str, target: str, *, headers: dict[str, str] | None = None, timeout_s: float = _TIMEOUT_S
) -> tuple[int | None, str]:
    """Send a request over a Unix socket. Return (HTTP status, text), or (None, the reason why there is no answer)."""
    import http.client
    import socket

    class UnixConnection(http.client.HTTPConnection):
        """HTTP over a Unix socket."""

        def connect(self) -> None:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(timeout_s)
            self.sock.connect(str(path))

    connection = UnixConnection("localhost")
    try:
        connection.request(method, target, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace").strip()
    except OSError as error:
        return None, error.strerror or str(error)
    except (ValueError, http.client.HTTPException) as error:
        return None, str(error)
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


def balancer_name(value: str) -> str:
    """Return a balancer's name in its usual form: http://ADDRESS:PORT, or the absolute path of a control socket."""
    from qlb.config.names import BALANCER

    try:
        return BALANCER.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


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
