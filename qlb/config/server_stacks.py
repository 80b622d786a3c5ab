"""The parameters of a server in the form that its QUIC stack reads: `qlb server-config --for STACK`.

Each stack supports a part of what the draft allows. A form is therefore either complete or a ConfigError with the
reason: never a configuration that the stack would read differently. docs/servers.md names the source of each rule.

A form contains one CID config and one server ID: the last active CID config of the file, because a rotation appends,
and the first server ID of the backend in it. JSON contains all of them.
"""

import base64
import json
from collections.abc import Callable
from typing import Final, NamedTuple

import yaml

from qlb.cid.params import CidParams
from qlb.config.model import Config
from qlb.config.server_config import server_config, server_params
from qlb.errors import ConfigError

ENVOY_MAX_PLAINTEXT_BYTES: Final = 18
"""Envoy appends one octet, the number of its worker."""
ENVOY_MAX_NONCE_BYTES: Final = 16
NLB_SERVER_ID_BYTES: Final = 8
NLB_CID_BYTES: Final = 16
PICOQUIC_MAX_SERVER_ID_BYTES: Final = 8
JSON: Final = "json"
"""The form without a stack: what `qlb server-config` prints, as JSON."""
_ENVOY: Final = "envoy.quic.connection_id_generator.quic_lb"
_ENVOY_TYPE: Final = "type.googleapis.com/envoy.extensions.quic.connection_id_generator.quic_lb.v3.Config"
_ENVOY_SECRET: Final = "quic_lb"


class Issued(NamedTuple):
    """The source of one server's IDs: a backend's name, a CID config and a server ID."""

    backend: str
    params: CidParams
    server_id: bytes


Form = Callable[[Issued], str]
"""A function that returns the text for a stack. Raises ConfigError if the stack cannot issue such IDs."""


def stack_config(config: Config, backend_name: str, stack: str) -> str:
    """Return what a backend must load, in the form of a stack. stack: a name of STACKS. The text contains the key.

    Raises ConfigError if there is no such backend, if it has nothing to load, or if the stack cannot issue its IDs.
    """
    if stack == JSON:
        return json.dumps(server_config(config, backend_name), indent=2) + "\n"
    name, issued = server_params(config, backend_name)
    params, server_ids = issued[-1]
    return _FORMS[stack](Issued(name, params, server_ids[0]))


def envoy_generator(params: CidParams, server_id: bytes) -> tuple[dict[str, object], dict[str, object]]:
    """Return the two parts of Envoy's configuration: the secret, and the connection_id_generator_config.

    Raises ConfigError if Envoy's generator cannot issue these IDs.
    """
    _require("Envoy cannot issue", _envoy_objections(params))
    key = params.key or bytes(16)
    secrets = {"encryption_key": _inline(key), "configuration_version": _inline(bytes([params.config_id]))}
    typed_config: dict[str, object] = {
        "@type": _ENVOY_TYPE,
        "server_id": _inline(server_id),
        "expected_server_id_length": params.server_id_length,
        "nonce_length_bytes": params.nonce_length,
        "encryption_parameters": {"name": _ENVOY_SECRET},
    }
    if params.key is None:
        typed_config["unencrypted_mode"] = True
    secret: dict[str, object] = {"name": _ENVOY_SECRET, "generic_secret": {"secrets": secrets}}
    return secret, {"name": _ENVOY, "typed_config": typed_config}


def _envoy_objections(params: CidParams) -> tuple[str, ...]:
    block_end, longest = params.block_end, ENVOY_MAX_PLAINTEXT_BYTES
    return _applicable(
        (
            params.plaintext_len > longest,
            f"server_id_length + nonce_length is {params.plaintext_len} octets, and Envoy allows {longest}",
        ),
        (
            params.nonce_length > ENVOY_MAX_NONCE_BYTES,
            f"nonce_length is {params.nonce_length} octets, and Envoy allows {ENVOY_MAX_NONCE_BYTES}",
        ),
        (
            params.cid_length > block_end + 1,
            f"cid_length is {params.cid_length}, and Envoy's IDs have {block_end + 1} octets",
        ),
        (
            params.length_self_encoded,
            "length_self_encoded is true, but Envoy appends an octet that it does not count, so that balancers would "
            "treat its IDs as unroutable: set it to false",
        ),
    )


def _envoy(issued: Issued) -> str:
    secret, generator = envoy_generator(issued.params, issued.server_id)
    text = yaml.safe_dump(
        {
            "static_resources": {"secrets": [secret]},
            "udp_listener_config": {"quic_options": {"connection_id_generator_config": generator}},
        },
        sort_keys=False,
    )
    return (
        f"# Envoy's configuration for {issued.backend}. Add the secret to static_resources, and udp_listener_config to "
        f"the QUIC listener.\n{text}"
    )


def _aioquic(issued: Issued) -> str:
    params = issued.params
    arguments = [
        f"config_id={params.config_id}",
        f"server_id_length={params.server_id_length}",
        f"nonce_length={params.nonce_length}",
        f"cid_length={params.cid_length}",
    ]
    if params.length_self_encoded:
        arguments.append("length_self_encoded=True")
    if params.key is not None:
        arguments.append(f'key=bytes.fromhex("{params.key.hex()}")')
    lines = "".join(f"    {argument},\n" for argument in arguments)
    return (
        f"# The connection IDs of {issued.backend}. Serve with qlb.adapters.aioquic.serve(..., generator=generator).\n"
        f"from qlb.cid import CidGenerator, CidParams\n\n"
        f"params = CidParams(\n{lines})\n"
        f'generator = CidGenerator(params, bytes.fromhex("{issued.server_id.hex()}"))\n'
    )


def _moq_relay(issued: Issued) -> str:
    params = issued.params
    _require(
        "moq-relay cannot issue",
        _applicable(
            (params.key is not None, "the CID config has a key, and moq-relay issues plaintext IDs only"),
            (params.config_id != 0, f"config_id is {params.config_id}, and moq-relay issues under 0 only"),
            (
                params.cid_length != params.block_end,
                f"cid_length is {params.cid_length}, and moq-relay's IDs have {params.block_end} octets",
            ),
        ),
    )
    options = f"-quic-lb-id={issued.server_id.hex()} {{}}-quic-lb-nonce={params.nonce_length}\n"
    return "".join(
        f"# Options of {releases}:\n{prefix}{options.format(prefix)}"
        for releases, prefix in (("moq-relay 0.14", "--server"), ("later releases", "--listen"))
    )


def _nlb(issued: Issued) -> str:
    params = issued.params
    _require(
        "an AWS Network Load Balancer cannot route",
        _applicable(
            (params.key is not None, "the CID config has a key, and the balancer reads plaintext IDs only"),
            (params.config_id != 0, f"config_id is {params.config_id}, and only 0 is known to work"),
            (
                params.server_id_length != NLB_SERVER_ID_BYTES,
                f"server_id_length is {params.server_id_length}, and its server IDs have {NLB_SERVER_ID_BYTES} octets",
            ),
            (
                params.cid_length != NLB_CID_BYTES or params.block_end != NLB_CID_BYTES,
                f"1 + server_id_length + nonce_length is {params.block_end} and cid_length is {params.cid_length}; "
                f"only IDs of {NLB_CID_BYTES} octets are known to work: set nonce_length to 7, without a cid_length",
            ),
        ),
    )
    encoded = base64.b64encode(issued.server_id).decode()
    return (
        f"# {issued.backend} behind an AWS Network Load Balancer: register the target with QuicServerId, and give the "
        f"server the other value,\n# which is the same server ID as the AWS Load Balancer Controller injects it.\n"
        f"QuicServerId=0x{issued.server_id.hex()}\nAWS_LBC_QUIC_SERVER_ID={encoded}\n"
    )


def _picoquic(issued: Issued) -> str:
    params = issued.params
    longest = PICOQUIC_MAX_SERVER_ID_BYTES
    _require(
        "picoquic cannot issue",
        _applicable(
            (
                params.algorithm == "four-pass",
                f"server_id_length + nonce_length is {params.plaintext_len}; with a key, picoquic needs 16",
            ),
            (params.config_id % 2 == 1, f"config_id is {params.config_id}, and picoquic's are 0, 2, 4 and 6"),
            (
                params.server_id_length > longest,
                f"server_id_length is {params.server_id_length}, and picoquic allows {longest}",
            ),
            (
                not params.length_self_encoded,
                "length_self_encoded is false; then a random bit of picoquic's first octet changes the config ID: "
                "set it to true",
            ),
        ),
    )
    method = "C" if params.key is None else "B"
    key = "" if params.key is None else f"-{params.key.hex()}"
    return f"-i {params.config_id // 2}Y{params.cid_length}{method}-{issued.server_id.hex()}{key}\n"


def _inline(octets: bytes) -> dict[str, str]:
    return {"inline_bytes": base64.b64encode(octets).decode()}


def _applicable(*objections: tuple[bool, str]) -> tuple[str, ...]:
    return tuple(text for applies, text in objections if applies)


def _require(refusal: str, objections: tuple[str, ...]) -> None:
    """Raise ConfigError if there are objections. refusal: what the stack cannot do with the IDs."""
    if objections:
        raise ConfigError(*(f"{refusal} these IDs: {text}" for text in objections))


_FORMS: Final[dict[str, Form]] = {
    "aioquic": _aioquic,
    "envoy": _envoy,
    "moq-relay": _moq_relay,
    "nlb": _nlb,
    "picoquic": _picoquic,
}
STACKS: Final = (*_FORMS, JSON)
"""The stacks that `qlb server-config --for` knows."""
