"""Kinds of scalars that name something: addresses, networks, hosts, files, backends, server IDs and keys."""

import ipaddress
import re
from pathlib import Path
from typing import Final

from qlb.addresses import Address, Endpoint, Network, canonical_address, canonical_network
from qlb.cid.params import KEY_BYTES, MAX_SERVER_ID_BYTES
from qlb.config.problems import shown
from qlb.config.scalars import Scalar, ScalarError

MAX_PORT: Final = 65535
DNS_PORT: Final = 53
MAX_NAME_CHARACTERS: Final = 64
MAX_SOURCE_CHARACTERS: Final = 16
"""A source's name begins its backends' names; the rest of those is for the longest IPv6 address and its port."""

_ADDRESS: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)(?:%([A-Za-z0-9._-]{1,15}))?\]|([^\[\]:]+)):([0-9]{1,5})")
_HEX_OCTETS: Final = re.compile(r"(?:[0-9A-Fa-f]{2})+")
_COLON_OCTETS: Final = re.compile(r"[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2})+")
"""The form of YANG (RFC 6991, hex-string), which `qlb server-config --yang` prints."""
_EVERY_ADDRESS: Final = re.compile(r"(?:\*|\[\*\])?:?([0-9]{1,5})")
"""A port for which other programs listen on every address: ``443``, ``:443``, ``*:443``."""
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]{0,9}://")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]{22}(?:==)?")
"""Sixteen octets in Base64, with or without padding."""
_CREDENTIAL: Final = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9_.,=@+-]{1,255}")
"""The name of a credential: it can be neither a path nor a folder above."""
CREDENTIAL_PREFIX: Final = "credential:"
"""The start of the name of a key file that the service manager passes to the daemon."""
_NAME: Final = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._:-]{{0,{MAX_NAME_CHARACTERS - 1}}}")
_ALPN: Final = re.compile(r"[!-~]{1,255}")
_SERVER_NAME: Final = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SERVICE: Final = re.compile(rf"{_LABEL.pattern}/{_LABEL.pattern}")
_ADMIN_URL: Final = re.compile(r"https?://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?/?")
_INTERFACE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@-]{0,14}")


def endpoint(*, service: bool, every: str = "") -> Scalar[Endpoint]:
    """Return the kind of IP literals with a port: ``127.0.0.1:4433``, ``[::1]:4433``, ``[fe80::1%eth0]:4433``.

    An IPv4-mapped IPv6 address becomes the IPv4 address. service: true for an address to bind, which may be 0.0.0.0 or
    ::, with port 0 for any free port; false for an address to send to, which may not. every: the advice for a text such
    as ``:443``, with which other programs mean every address; PORT in it is replaced.
    """

    def parse(text: str) -> Endpoint:
        found, address = _endpoint(text, service=service, every=every)
        if not service and (address.is_unspecified or address.is_multicast):
            raise ScalarError(f"must be the address of one host, not {shown(text)}")
        return found

    return Scalar(parse, {"type": "string", "pattern": rf"^{_ADDRESS.pattern}$", "$comment": "IP address and port"})


def _endpoint(text: str, *, service: bool, every: str = "") -> tuple[Endpoint, Address]:
    match = _ADDRESS.fullmatch(text)
    host = "" if match is None else match[1] or match[3]
    address = _ip_address(host)
    if match is None or address is None:
        raise ScalarError(_endpoint_hint(text, every=every, service=service))
    first = 0 if service else 1
    if not first <= int(match[4]) <= MAX_PORT:
        raise ScalarError(f"must have a port from {first} to {MAX_PORT}, not {shown(text)}")
    scope = match[2] or ""
    if bool(scope) != (address.version == 6 and address.is_link_local):
        raise ScalarError(
            f"must have an interface if and only if it is link-local ([fe80::1%eth0]:4433), not {shown(text)}"
        )
    return Endpoint(f"{address}%{scope}" if scope else str(address), int(match[4])), address


def _endpoint_hint(text: str, *, every: str, service: bool) -> str:
    """Return the message for a text that is not an address with a port, with the most likely correction."""
    wanted = f"must be an IP address and a port (127.0.0.1:4433 or [::1]:4433), not {shown(text)}"
    match = _EVERY_ADDRESS.fullmatch(text)
    hint = every.replace("PORT", match[1]) if match else _endpoint_correction(text, service=service)
    return f"{wanted}: {hint}" if hint else wanted


def _endpoint_correction(text: str, *, service: bool) -> str:
    host, _, port = text.rpartition(":")
    if (bare := _ip_address(text.strip("[]")) or _ip_address(text.removesuffix(":").strip("[]"))) is not None:
        return "add the port" if bare.version == 4 else "add [] and the port"
    if scheme := _SCHEME.match(text):
        return f"remove the {scheme[0]}"
    is_port = re.fullmatch(r"[0-9]{1,5}", port) is not None  # another text may be a secret
    if _ip_address(host) is not None and ":" in host and is_port:
        return f"write [{host}]:{port}"
    if _ip_address(host.strip("[]")) is not None:
        return "write the port as a number"
    if host == "localhost" or text == "localhost":
        return f"write 127.0.0.1:{port if host and is_port else 4433}"
    if not re.fullmatch(r"[A-Za-z0-9_-]*[A-Za-z_-][A-Za-z0-9_.-]*", host or text):
        return ""
    name = "names are not resolved here; write the IP address"
    return name if service else f"{name}, or use `discovery` to resolve the name"


def _ip_address(text: str) -> Address | None:
    """Return the address in a text, or None if it is not one. An IPv4-mapped IPv6 address becomes the IPv4 address.

    All addresses of the configuration are read here, so every plane, probe and check uses the same form.
    """
    try:
        return canonical_address(text)
    except ValueError:
        return None


def _hex_key(text: str) -> bytes:
    """Read a key. The message of an error never shows it."""
    digits = _without_colons(text)
    if len(digits) == 2 * KEY_BYTES and _HEX_OCTETS.fullmatch(digits):
        return bytes.fromhex(digits)
    raise ScalarError(
        f"must be {2 * KEY_BYTES} hex digits ({KEY_BYTES} octets), as `qlb keygen` prints them; "
        f"{_key_fault(digits)} (value not shown)"
    )


def _key_fault(text: str) -> str:
    """Return what is wrong with a key, without a character of it."""
    wanted, have = 2 * KEY_BYTES, len(text)
    if not have:
        return "it is empty"
    if text[:2].lower() == "0x":
        return "it begins with 0x: remove the 0x"
    if re.fullmatch(r"[0-9A-Fa-f]+", text):
        if have == 2 * wanted:
            return f"it has {have} hex digits, as a key of AES-256 has: QUIC-LB uses AES-128, so create another key"
        return f"it has {have} hex digits, {abs(have - wanted)} too {'few' if have < wanted else 'many'}"
    if _BASE64.fullmatch(text):
        return "it looks like Base64: convert it with `base64 -d | od -An -vtx1 | tr -d ' \\n'`"
    if re.fullmatch(r"[0-9A-Fa-f]{2}(?:[ :-]*[0-9A-Fa-f]{2})+", text):
        return "it has separators: remove them"
    return f"it has {have} characters" if have != wanted else "it has a character that is not a hex digit"


def _without_colons(text: str) -> str:
    """Return octets in YANG's form, ``c0:ff:ee``, as plain hex digits, and every other text unchanged."""
    return text.replace(":", "") if _COLON_OCTETS.fullmatch(text) else text


def _server_id(text: str) -> bytes:
    digits = _without_colons(text)
    if _HEX_OCTETS.fullmatch(digits) and len(digits) <= 2 * MAX_SERVER_ID_BYTES:
        return bytes.fromhex(digits)
    hint = "; remove the 0x" if text.lower().startswith("0x") else ""
    raise ScalarError(
        f"must be 1 to {MAX_SERVER_ID_BYTES} octets in hex, two digits for each (c0ffee01), not {shown(text)}{hint}"
    )


def _interface(text: str) -> str:
    if _INTERFACE.fullmatch(text):
        return text
    raise ScalarError(f"must be the name of a network interface, 1 to 15 characters (eth0), not {shown(text)}")


def _name(text: str) -> str:
    if _NAME.fullmatch(text):
        return text
    raise ScalarError(
        f"must be 1 to {MAX_NAME_CHARACTERS} letters, digits or . _ : - and begin with a letter or a digit, "
        f"not {shown(text)}"
    )


def _source_name(text: str) -> str:
    """Read the name of a discovery source; the names of its backends begin with it."""
    if _NAME.fullmatch(text) and len(text) <= MAX_SOURCE_CHARACTERS:
        return text
    raise ScalarError(
        f"must be 1 to {MAX_SOURCE_CHARACTERS} letters, digits or . _ : - and begin with a letter or a digit, "
        f"not {shown(text)}"
    )


def _network(text: str) -> Network:
    try:
        return canonical_network(ipaddress.ip_network(text))
    except ValueError as error:
        raise ScalarError(
            f"must be an IP network (10.0.0.0/16 or 2001:db8::/48), not {shown(text)} ({error})"
        ) from None


def _resolver(text: str) -> Endpoint:
    """Read the address of a DNS server. The default port is 53."""
    address = _ip_address(text.strip("[]"))
    return _endpoint(text, service=False)[0] if address is None else Endpoint(str(address), DNS_PORT)


def _path(text: str) -> Path:
    # A quoted YAML string may contain control characters or half of a surrogate pair; a file name may not.
    if text and text.isprintable():
        return Path(text)
    raise ScalarError(f"must be the name of a file, not {shown(text)}")


def _key_file(text: str) -> Path:
    """Read the name of a key file, or of a credential that the service manager passes to the daemon.

    A credential is a name and not a path, so that it cannot lead out of the folder of credentials.
    """
    name = text.removeprefix(CREDENTIAL_PREFIX)
    if name != text and not _CREDENTIAL.fullmatch(name):
        raise ScalarError(
            f"must name a credential after {CREDENTIAL_PREFIX} with letters, digits and _ . - @ = + , only "
            f"({CREDENTIAL_PREFIX}keys_1.hex), not {shown(text)}"
        )
    return _path(text)


def _alpn(text: str) -> str:
    """Read the name of an application protocol; only visible ASCII is allowed. Spec: RFC 7301, section 3.2."""
    if not _ALPN.fullmatch(text):
        raise ScalarError(f"must be the name of a protocol, 1 to 255 visible characters (h3), not {shown(text)}")
    return text


def _server_name(text: str) -> str:
    """Read a DNS host name as TLS sends it. Spec: RFC 6066, section 3."""
    if not _SERVER_NAME.fullmatch(text):
        hint = "; remove the final dot, which TLS does not allow" if text.endswith(".") else ""
        raise ScalarError(f"must be a host name such as agents.example.com, not {shown(text)}{hint}")
    return text


def _dns_name(text: str) -> str:
    """Read a name for DNS queries. A final dot, which marks a complete name, is removed."""
    if not _SERVER_NAME.fullmatch(text.removesuffix(".")):
        raise ScalarError(f"must be a DNS name such as agents.example.com, not {shown(text)}")
    return text.removesuffix(".")


def _service(text: str) -> str:
    """Read a Kubernetes Service with its namespace."""
    if not _SERVICE.fullmatch(text):
        raise ScalarError(f"must be NAMESPACE/SERVICE such as voice/agents, not {shown(text)}")
    return text


def _port_name(text: str) -> str:
    """Read the name of a port of a Kubernetes Service."""
    if not _LABEL.fullmatch(text):
        raise ScalarError(f"must be the name of a port such as quic, not {shown(text)}")
    return text


def _balancer(text: str) -> str:
    """Read the URL of an admin server, or the absolute path of a control socket."""
    if not _ADMIN_URL.fullmatch(text) and not (text.startswith("/") and "\0" not in text):
        raise ScalarError(f"must be http://ADDRESS:PORT or the absolute path of a control socket, not {shown(text)}")
    return text.removesuffix("/") if "://" in text else text


def _schema(pattern: str, kind: str, **more: object) -> dict[str, object]:
    """Return the JSON Schema of a text. kind: its kind in words. An editor may see some of these texts as numbers."""
    return {"type": ["string", "number"], "pattern": f"^{pattern}$", "$comment": kind, **more}


_OCTET: Final = "([0-9A-Fa-f]{2}:?)"

HEX_KEY: Final = Scalar(
    _hex_key,
    _schema(f"{_OCTET}{{{KEY_BYTES - 1}}}[0-9A-Fa-f]{{2}}", f"{2 * KEY_BYTES} hex digits", writeOnly=True),
)
SERVER_ID: Final = Scalar(
    _server_id,
    _schema(f"{_OCTET}{{0,{MAX_SERVER_ID_BYTES - 1}}}[0-9A-Fa-f]{{2}}", "hex digits, two for each octet"),
)
NAME: Final = Scalar(_name, _schema(_NAME.pattern, f"name, 1 to {MAX_NAME_CHARACTERS} characters"))
INTERFACE: Final = Scalar(_interface, _schema(_INTERFACE.pattern, "network interface"))
ALPN: Final = Scalar(_alpn, _schema(_ALPN.pattern, "name of a protocol"))
SERVER_NAME: Final = Scalar(_server_name, _schema(_SERVER_NAME.pattern, "host name"))
DNS_NAME: Final = Scalar(_dns_name, _schema(rf"{_SERVER_NAME.pattern}\.?", "DNS name"))
SERVICE: Final = Scalar(_service, _schema(_SERVICE.pattern, "NAMESPACE/SERVICE", type="string"))
PORT_NAME: Final = Scalar(_port_name, _schema(_LABEL.pattern, "name of a port"))
BALANCER: Final = Scalar(_balancer, _schema(f"({_ADMIN_URL.pattern}|/.*)", "URL, or path of a socket", type="string"))
SOURCE_NAME: Final = Scalar(
    _source_name,
    _schema(_NAME.pattern, f"name, 1 to {MAX_SOURCE_CHARACTERS} characters", maxLength=MAX_SOURCE_CHARACTERS),
)
NETWORK: Final = Scalar(_network, _schema("[0-9A-Fa-f:.]+(/[0-9]{1,3})?", "IP network", type="string"))
RESOLVER: Final = Scalar(
    _resolver, {"type": "string", "minLength": 2, "$comment": "IP address, with or without a port"}
)
PATH: Final = Scalar(_path, {"type": ["string", "number"], "minLength": 1, "$comment": "path"})
KEY_FILE: Final = Scalar(_key_file, {"type": ["string", "number"], "minLength": 1, "$comment": "path"})
