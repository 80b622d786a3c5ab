"""Commands that read a configuration and print a result. None of them sends a packet."""

import json
import secrets
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

import click

from qlb.addresses import Endpoint, canonical_host
from qlb.cid import CidCodec, CidGenerator, CidParams, config_id_of
from qlb.cid.params import RESERVED_CONFIG_ID
from qlb.cli.control import ask
from qlb.cli.run import CONFIG
from qlb.config import build
from qlb.config.load import load
from qlb.config.model import Config
from qlb.config.names import endpoint
from qlb.config.schema import json_schema
from qlb.config.server_config import server_config_yaml, yang_server_configs
from qlb.daemon.preflight import find_faults, preflight
from qlb.errors import CidError, QlbError
from qlb.local_addresses import local_hosts
from qlb.routing.explain import explain as explain_decision
from qlb.routing.flows import FlowTables
from qlb.routing.router import Router

_EXPLAINED_CLIENT = "192.0.2.1:50000"
"""Documentation address (RFC 5737): who sends a datagram that is only explained."""


class HexOctets(click.ParamType[bytes]):
    """Octets in hexadecimal, with or without spaces and colons between them."""

    name = "hex"

    def convert(self, value: str | bytes, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        """Return the octets, or end with a usage error."""
        if isinstance(value, bytes):
            return value
        try:
            return bytes.fromhex(value.replace(":", " "))
        except ValueError:
            self.fail(f"{value!r} is not hexadecimal", param, ctx)


class ClientAddress(click.ParamType[tuple[str, int]]):
    """ADDR:PORT, with an IPv6 address in brackets."""

    name = "addr:port"

    def convert(
        self, value: str | tuple[str, int], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        """Return (host, port), or end with a usage error."""
        if isinstance(value, tuple):
            return value
        try:
            return endpoint(service=False).parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command("check")
@click.argument("config", type=CONFIG)
@click.option("--no-keys", is_flag=True, help="Do not read key files: for a CI that must not have them.")
def check(config: Path, no_keys: bool) -> None:
    """Validate CONFIG and report every problem that ``run`` would report before it opens its sockets.

    A backend at an address of this machine, on a port that listen has, is such a problem: packets would loop. Run the
    check on the balancer; another machine knows its own addresses only.
    """
    loaded = load(config, with_keys=not no_keys, find_local=local_hosts)
    chosen = preflight(loaded.config)
    build.snapshot(loaded.config)
    for warning in (*loaded.warnings, *find_faults(loaded.config, chosen)):
        click.echo(f"warning: {warning}", err=True)
    unread = ", key files not read" if no_keys else ""
    click.echo(f"{config}: good; {len(loaded.config.backends)} backends, plane {chosen}{unread}")


@click.command("schema")
def schema() -> None:
    """Print the JSON Schema of the configuration file."""
    click.echo(json.dumps(json_schema(), indent=2))


@click.command("keygen")
def keygen() -> None:
    """Print a new key: 32 hexadecimal digits from the system's random source."""
    click.echo(secrets.token_hex(16))


@click.command("explain")
@click.argument("config", type=CONFIG)
@click.argument("datagram", metavar="HEX", type=HexOctets())
@click.option("--client", type=ClientAddress(), default=_EXPLAINED_CLIENT, show_default=True, help="Who sends it.")
@click.option("--live", is_flag=True, help="Ask the program that runs in the kernel (xdp plane), too.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def explain(config: Path, datagram: bytes, client: tuple[str, int], live: bool, as_json: bool) -> None:
    """Show each step of the decision for one datagram, HEX, with the section that it follows.

    --live asks the daemon behind CONFIG's admin.socket where the datagram would go now, by its flow tables,
    the kernel's routes and neighbours.
    """
    loaded = load(config).config
    told_live = _ask_live(loaded, datagram, client) if live else None
    flows = FlowTables(loaded.fallback.flow_table_size, loaded.fallback.flow_timeout)
    router = Router(build.snapshot(loaded), flows)
    service = loaded.listen[0]
    four_tuple = (canonical_host(client[0]), client[1], canonical_host(service.host), service.port)
    told = explain_decision(router, datagram, four_tuple, 0.0)
    if as_json:
        backend = router.snapshot.backends[told.decision[1]] if told.decision[1] >= 0 else None
        steps = [step._asdict() for step in told.steps]
        answer = {"steps": steps, "outcome": told.outcome, "backend": backend and backend.name}
        click.echo(json.dumps({**answer, "live": told_live} if live else answer, indent=2))
        return
    for step in told.steps:
        click.echo(f"{step.text}\n    [{step.section}]")
    if told_live is not None:
        click.echo(_live_line(told_live))


def _ask_live(config: Config, datagram: bytes, client: tuple[str, int]) -> dict[str, object]:
    if config.admin.socket is None:
        raise QlbError("--live asks over the control socket: the configuration has no admin.socket")
    target = f"/explain/{datagram.hex() or '%20'}/{quote(str(Endpoint(*client)), safe='')}"
    code, answer = ask(config.admin.socket, "POST", target)
    if code != HTTPStatus.OK:
        raise QlbError(f"the daemon cannot be asked: {answer.get('error', answer)}")
    return {name: value for name, value in answer.items() if name != "ok"}


def _live_line(told: dict[str, object]) -> str:
    if told["decision"] is None:
        return "live: not for a service address; the kernel gets it"
    text = f"live: {told['decision']}, backend {told['backend'] or 'none'}: {told['action']}"
    if told["outcome"] != told["decision"]:
        text += f" ({told['outcome']})"
    if "interface" in told:
        text += (
            f" by {told['interface']} to {told['next_hop']}, {told['size_bytes']} octets "
            f"from {told['source']} to {told['destination']}, protocol {told['protocol']}"
        )
    return text


@click.group("cid")
def cid() -> None:
    """Encode and decode connection IDs."""


@cid.command("decode")
@click.option("--config", required=True, type=CONFIG)
@click.argument("cid", metavar="HEX", type=HexOctets())
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def cid_decode(config: Path, cid: bytes, as_json: bool) -> None:
    """Decode a connection ID, HEX, first octet included: its config, server ID and backend."""
    loaded = load(config).config
    params = _params(loaded, config_id_of(cid) if cid else RESERVED_CONFIG_ID)
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
        click.echo("\n".join(f"{name}: {value if value is not None else 'none'}" for name, value in found.items()))


@cid.command("encode")
@click.option("--config", required=True, type=CONFIG)
@click.option("--config-id", type=int, default=None, help="Which configuration; default: the first that fits.")
@click.option("--nonce", type=HexOctets(), default=None, help="An exact nonce; default: a random one.")
@click.argument("server", metavar="BACKEND|HEX")
def cid_encode(config: Path, config_id: int | None, nonce: bytes | None, server: str) -> None:
    """Print a connection ID of a backend, by name, or of a server ID, HEX. For trying things out."""
    loaded = load(config).config
    params, server_id = _server_id(loaded, config_id, server)
    if nonce is None:
        click.echo(CidGenerator(params, server_id).generate().hex())
    else:
        click.echo(CidCodec(params).encode(server_id, nonce).hex())


@click.command("server-config")
@click.argument("config", type=CONFIG)
@click.argument("backend")
@click.option("--yang", is_flag=True, help="The draft's YANG model, as JSON.")
def print_server_config(config: Path, backend: str, yang: bool) -> None:
    """Print what the server BACKEND must load to issue routable IDs. Its keys are secrets.

    BACKEND: its name, or its IP address where a source of `discovery` makes server IDs of addresses.
    The draft's model holds one configuration: where there are several, --yang prints a list of them.
    """
    loaded = load(config).config
    if not yang:
        click.echo(server_config_yaml(loaded, backend), nl=False)
        return
    documents = yang_server_configs(loaded, backend)
    click.echo(json.dumps(documents[0] if len(documents) == 1 else documents, indent=2))


def _params(config: Config, config_id: int) -> CidParams:
    for params in build.cid_params(config):
        if params.config_id == config_id:
            return params
    raise CidError(f"config ID {config_id} is not configured")


def _server_id(config: Config, config_id: int | None, server: str) -> tuple[CidParams, bytes]:
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


COMMANDS = (check, schema, keygen, explain, cid, print_server_config)
