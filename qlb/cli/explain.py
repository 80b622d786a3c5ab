"""Commands that explain one datagram or one connection ID."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from qlb.cli.client import (
    CONFIG,
    CONFIG_VARIABLE,
    ConfigCommand,
    ask,
    complete_configured_backend,
    config_option,
    json_option,
    socket_of,
    socket_option,
)
from qlb.errors import CidError, QlbError

if TYPE_CHECKING:
    from qlb.cid import CidParams
    from qlb.config.model import Config

_EXPLAINED_CLIENT: Final = "192.0.2.1:50000"
"""The client of an explained datagram by default: a documentation address (RFC 5737)."""

_NO_OWNER: Final = "none has this server ID (does the server have another key?)"


def _octets(value: str | bytes) -> bytes:
    """Return octets that are written in hexadecimal, with or without spaces and colons between them."""
    if isinstance(value, bytes):
        return value
    try:
        return bytes.fromhex(value.replace(":", " "))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not hexadecimal") from None


def _address(value: str | tuple[str, int]) -> tuple[str, int]:
    """Return (host, port) of a client that is written ADDR:PORT, with an IPv6 address in brackets."""
    from qlb.config.names import endpoint

    if isinstance(value, tuple):
        return value
    try:
        return endpoint(service=False).parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command("explain", cls=ConfigCommand, short_help="Explain the routing of one datagram.")
@click.argument("config", type=CONFIG)
@click.argument("datagram", metavar="HEX", type=_octets)
@click.option(
    "--client",
    type=_address,
    metavar="ADDR:PORT",
    default=_EXPLAINED_CLIENT,
    show_default=True,
    help="Sender of the datagram.",
)
@click.option("--live", is_flag=True, help="Also ask the running daemon's program in the kernel (xdp plane).")
@config_option
@socket_option
@json_option
def explain(
    config: Path, datagram: bytes, client: tuple[str, int], live: bool, socket: Path | None, as_json: bool
) -> None:
    """Show each step of the routing decision for the datagram HEX, and the section of the specification behind it.

    --live asks the daemon of CONFIG where the datagram would go now. That answer includes the daemon's flow tables, and
    the routes and neighbors of the kernel.
    """
    from qlb.addresses import canonical_host
    from qlb.config import build
    from qlb.config.load import load
    from qlb.routing.explain import explain as explain_decision
    from qlb.routing.flows import FlowTables
    from qlb.routing.router import Router

    loaded = load(config).config
    live_answer = _ask_live(socket or socket_of(config, loaded.admin.socket), datagram, client) if live else None
    router = Router(build.snapshot(loaded), FlowTables(loaded.fallback.flow_table_size, loaded.fallback.flow_timeout))
    service = loaded.listen[0]
    four_tuple = (canonical_host(client[0]), client[1], canonical_host(service.host), service.port)
    explained = explain_decision(router, datagram, four_tuple, 0.0)
    if as_json:
        backend = router.snapshot.backends[explained.decision[1]] if explained.decision[1] >= 0 else None
        steps = [step._asdict() for step in explained.steps]
        answer = {"steps": steps, "outcome": explained.outcome, "backend": backend and backend.name}
        click.echo(json.dumps({**answer, "live": live_answer} if live else answer, indent=2))
        return
    for step in explained.steps:
        click.echo(f"{step.text}\n    [{step.section}]")
    if live_answer is not None:
        click.echo(_live_line(live_answer))


def _ask_live(socket: Path | None, datagram: bytes, client: tuple[str, int]) -> dict[str, object]:
    from http import HTTPStatus
    from urllib.parse import quote

    from qlb.addresses import Endpoint

    if socket is None:
        raise QlbError("--live needs the control socket: set admin.socket in the configuration, or give --socket")
    target = f"/explain/{datagram.hex() or '%20'}/{quote(str(Endpoint(*client)), safe='')}"
    code, answer = ask(socket, "POST", target)
    if code != HTTPStatus.OK:
        raise QlbError(f"the daemon cannot explain the datagram: {answer.get('error', answer)}")
    return {name: value for name, value in answer.items() if name != "ok"}


def _live_line(answer: dict[str, object]) -> str:
    if answer["decision"] is None:
        return "live: not for a service address; the kernel gets it"
    text = f"live: {answer['decision']}, backend {answer['backend'] or 'none'}: {answer['action']}"
    if answer["outcome"] != answer["decision"]:
        text += f" ({answer['outcome']})"
    if "interface" in answer:
        text += (
            f" by {answer['interface']} to {answer['next_hop']}, {answer['size_bytes']} octets "
            f"from {answer['source']} to {answer['destination']}, protocol {answer['protocol']}"
        )
    return text


cid_config_option = click.option(
    "--config",
    "-c",
    required=True,
    type=CONFIG,
    metavar="FILE",
    envvar=CONFIG_VARIABLE,
    show_envvar=True,
    help="Configuration with the keys.",
)


@click.group("cid", short_help="Encode and decode connection IDs.")
def cid() -> None:
    """Encode and decode connection IDs."""


@cid.command("decode", short_help="Decode a connection ID.")
@cid_config_option
@click.argument("cid", metavar="HEX", type=_octets)
@json_option
def cid_decode(config: Path, cid: bytes, as_json: bool) -> None:
    """Decode the connection ID HEX, first octet included: print its CID config, server ID and backend."""
    from qlb.cid import CidCodec
    from qlb.config import build
    from qlb.config.load import load

    loaded = load(config).config
    params = _params(loaded, cid[0] >> 5 if cid else 7)
    server_id = CidCodec(params).decode(cid)
    if server_id is None:
        raise CidError(f"the ID has {len(cid)} octets; config {params.config_id} decodes {params.block_end} or more")
    owner = next((b.name for b in build.backends(loaded) if server_id in b.server_ids.get(params.config_id, ())), None)
    found = {
        "config_id": params.config_id,
        "algorithm": params.algorithm,
        "server_id": server_id.hex(),
        "backend": owner,
    }
    if as_json:
        click.echo(json.dumps(found))
    else:
        shown = {**found, "backend": owner or _NO_OWNER}
        click.echo("\n".join(f"{name}: {value}" for name, value in shown.items()))


@cid.command("encode", short_help="Print a connection ID of a backend.")
@cid_config_option
@click.option("--config-id", type=int, default=None, help="Config ID to use.  [default: the first that fits]")
@click.option("--nonce", type=_octets, metavar="HEX", default=None, help="Nonce to use.  [default: a random one]")
@click.argument("server", metavar="BACKEND|HEX", shell_complete=complete_configured_backend)
def cid_encode(config: Path, config_id: int | None, nonce: bytes | None, server: str) -> None:
    """Print a connection ID of a server, given by its backend's name or by its server ID in HEX. For experiments."""
    from qlb.cid import CidCodec, CidGenerator
    from qlb.config.load import load

    loaded = load(config).config
    params, server_id = _server_id(loaded, config_id, server)
    if nonce is None:
        click.echo(CidGenerator(params, server_id).generate().hex())
    else:
        click.echo(CidCodec(params).encode(server_id, nonce).hex())


def _params(config: "Config", config_id: int) -> "CidParams":
    from qlb.config import build

    for params in build.cid_params(config):
        if params.config_id == config_id:
            return params
    raise CidError(f"config ID {config_id} is not configured")


def _server_id(config: "Config", config_id: int | None, server: str) -> "tuple[CidParams, bytes]":
    """Return a server ID and the parameters to encode it with. server: a backend's name, or a server ID in hex."""
    from qlb.config import build

    configs = [params for params in build.cid_params(config) if config_id in (None, params.config_id)]
    for backend in build.backends(config):
        for params in configs:
            if backend.name == server and backend.server_ids.get(params.config_id):
                return params, backend.server_ids[params.config_id][0]
    try:
        octets = bytes.fromhex(server)
    except ValueError:
        octets = b""
    for params in configs:
        if len(octets) == params.server_id_length:
            return params, octets
    raise QlbError(f"{server!r} is neither a backend with a server ID nor a server ID of a configured length")
