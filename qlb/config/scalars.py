"""The kinds of scalars: from the text in the file to a typed value, and how JSON Schema describes that text.

Each kind reads one string strictly: no rounding, no clamping, no "close enough". A kind is put on a field of
the model with Annotated; pydantic then asks it for its validator and for its schema. An editor that checks
the file with the schema sees YAML's own types (4, true, and 1e3 as a number) where qlb sees text, so a schema
here allows each type that the text can be taken for.
"""

import functools
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Final, Generic, TypeVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from qlb.addresses import Endpoint, Network, canonical_address, canonical_network
from qlb.cid.params import KEY_BYTES, MAX_SERVER_ID_BYTES
from qlb.config.problems import shown

T = TypeVar("T")
W = TypeVar("W")

MAX_WHOLE_DIGITS: Final = 18
_MAX_WORD_CHARACTERS: Final = 40
"""A longer text is no misspelt word of a choice."""
MAX_PORT: Final = 65535
DNS_PORT: Final = 53
MAX_NAME_CHARACTERS: Final = 64
MAX_SOURCE_CHARACTERS: Final = 16
"""The rest of a backend's name is for the longest IPv6 address and its port."""

_ADDRESS: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)(?:%([A-Za-z0-9._-]{1,15}))?\]|([^\[\]:]+)):([0-9]{1,5})")
_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h)")
_SIZE: Final = re.compile(r"([0-9]{1,12})(KiB|MiB|GiB)?")
_HEX_OCTETS: Final = re.compile(r"(?:[0-9A-Fa-f]{2})+")
_NAME: Final = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._:-]{{0,{MAX_NAME_CHARACTERS - 1}}}")
_ALPN: Final = re.compile(r"[!-~]{1,255}")
_SERVER_NAME: Final = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SERVICE: Final = re.compile(rf"{_LABEL.pattern}/{_LABEL.pattern}")
_ADMIN_URL: Final = re.compile(r"https?://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?/?")
_INTERFACE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@-]{0,14}")
_PER_SECOND: Final = {"ms": (1, 1000), "s": (1, 1), "m": (60, 1), "h": (3600, 1)}
"""Unit → seconds as a fraction, so that 300ms is exactly the float 0.3."""


_OCTETS_PER: Final = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10}


class Size(int):
    """Octets, written with the largest unit that they are a whole number of."""

    def __str__(self) -> str:
        """Write it the way the configuration does: ``4MiB``, ``1000``."""
        unit = next((unit for unit, octets in _OCTETS_PER.items() if self and self % octets == 0), "")
        return f"{self // _OCTETS_PER.get(unit, 1)}{unit}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Tell pydantic, which writes defaults into the schema, that it is a whole number."""
        return core_schema.int_schema()


class ScalarError(ValueError):
    """A text that a kind cannot read. The message goes on after the key's name: "must be …, not …"."""


@dataclass(frozen=True)
class Scalar(Generic[T]):
    """One kind. parse: text → value, or raises ScalarError. schema: the JSON Schema of the text."""

    parse: Callable[[str], T]
    schema: Mapping[str, object]

    def read(self, text: str) -> T | None:
        """Return the value, or None where the text cannot be read."""
        try:
            return self.parse(text)
        except ScalarError:
            return None

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Give pydantic the validator."""
        return core_schema.no_info_plain_validator_function(self._validate)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Give pydantic the JSON Schema."""
        return dict(self.schema)

    def _validate(self, value: object) -> T:
        if value is None:
            text = "is empty: write a value or remove it"
        elif not isinstance(value, str):
            text = f"must be a single value, not a {'list' if isinstance(value, list) else 'mapping'}"
        else:
            try:
                return self.parse(value)
            except ScalarError as error:
                text = str(error)
        raise PydanticCustomError("scalar", "see ctx", {"text": text})


def whole_number(low: int, high: int, unit: str = "") -> Scalar[int]:
    """Decimal digits; ``01`` is one. Both bounds are allowed."""
    wanted = f"must be a whole number from {low} to {high}{f' ({unit})' if unit else ''}"

    def parse(text: str) -> int:
        digits = text.isascii() and text.isdecimal() and len(text) <= MAX_WHOLE_DIGITS
        if not digits or not low <= int(text) <= high:
            raise ScalarError(f"{wanted}, not {shown(text)}")
        return int(text)

    return Scalar(parse, {"type": ["integer", "string"], "minimum": low, "maximum": high, "pattern": "^[0-9]{1,18}$"})


def duration(low: str, high: str) -> Scalar[float]:
    """``500ms``, ``30s``, ``5m``, ``1h``, ``1.5s``: a float of seconds. Both bounds are allowed."""

    def parse(text: str) -> float:
        seconds = _seconds(text)
        if not _seconds(low) <= seconds <= _seconds(high):
            raise ScalarError(f"must be a duration from {low} to {high}, not {shown(text)}")
        return seconds

    return Scalar(parse, {"type": "string", "pattern": rf"^{_DURATION.pattern}$"})


def _seconds(text: str) -> float:
    match = _DURATION.fullmatch(text)
    if match is None:
        hint = f", for example {text}s" if text.isascii() and text.isdecimal() and len(text) < 10 else ""
        raise ScalarError(
            f"must be a number and a unit (500ms, 30s, 5m, 1h), not {shown(text)}" + (hint and f": add the unit{hint}")
        )
    times, parts = _PER_SECOND[match[2]]
    return float(match[1]) * times / parts


def duration_text(seconds: float) -> str:
    """Write a duration the way a configuration does: in seconds where they are whole, else in milliseconds."""
    return f"{int(seconds)}s" if seconds == int(seconds) else f"{seconds * 1000:.10g}ms"


def size(low: str, high: str) -> Scalar[Size]:
    """``4MiB``, ``512KiB``, ``65536``: octets, where no unit is written. Both bounds are allowed."""

    def parse(text: str) -> Size:
        octets = _octets(text)
        if not _octets(low) <= octets <= _octets(high):
            raise ScalarError(f"must be a size from {low} to {high}, not {shown(text)}")
        return octets

    return Scalar(parse, {"type": ["integer", "string"], "minimum": _octets(low), "pattern": f"^{_SIZE.pattern}$"})


def _octets(text: str) -> Size:
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ScalarError(f"must be a number of octets, or one with a unit (512KiB, 4MiB), not {shown(text)}")
    return Size(int(match[1]) * _OCTETS_PER.get(match[2], 1))


def choice(values: type[StrEnum] | tuple[str, ...]) -> Scalar[str]:
    """One of a few words, spelt exactly. An enum gives its member."""
    words = tuple(str(value) for value in values)

    def parse(text: str) -> str:
        if text not in words:
            close = _closest(text.lower(), words) if len(text) <= _MAX_WORD_CHARACTERS else ""
            hint = f"; did you mean {close}?" if close else ""
            raise ScalarError(f"must be one of {', '.join(words)}, not {shown(text)}{hint}")
        return text if isinstance(values, tuple) else values(text)

    return Scalar(parse, {"type": "string", "enum": list(words)})


@functools.lru_cache(maxsize=64)
def _closest(text: str, words: tuple[str, ...]) -> str:
    """Return the word that a text resembles, or "". One mistake is often in every backend: search once."""
    return next(iter(get_close_matches(text, words, 1)), "")


def or_word(word: str, value: W, kind: Scalar[T]) -> Scalar[T | W]:
    """Either the word, which stands for the value, or what the kind reads."""

    def parse(text: str) -> T | W:
        if text == word:
            return value
        try:
            return kind.parse(text)
        except ScalarError as error:
            raise ScalarError(f"{error} (or the word {word})") from None

    return Scalar(parse, {"anyOf": [{"const": word}, dict(kind.schema)]})


def endpoint(*, service: bool) -> Scalar[Endpoint]:
    """``127.0.0.1:4433``, ``[::1]:4433``, ``[fe80::1%eth0]:4433``: IP literals only. IPv4-mapped ones become IPv4.

    service: an address to bind, so 0.0.0.0, :: and port 0 (any free one) are allowed; else one to send to.
    """

    def parse(text: str) -> Endpoint:
        found, address = _endpoint(text)
        if not service and found.port == 0:
            raise ScalarError(f"must have a port from 1 to {MAX_PORT}, not {shown(text)}")
        if not service and (address.is_unspecified or address.is_multicast):
            raise ScalarError(f"must be the address of one host, not {shown(text)}")
        return found

    return Scalar(parse, {"type": "string", "pattern": rf"^{_ADDRESS.pattern}$"})


def _endpoint(text: str) -> tuple[Endpoint, ipaddress.IPv4Address | ipaddress.IPv6Address]:
    match = _ADDRESS.fullmatch(text)
    host = "" if match is None else match[1] or match[3]
    address = _ip_address(host)
    if match is None or address is None:
        raise ScalarError(_endpoint_hint(text))
    if int(match[4]) > MAX_PORT:
        raise ScalarError(f"must have a port from 0 to {MAX_PORT}, not {shown(text)}")
    scope = match[2] or ""
    if bool(scope) != (address.version == 6 and address.is_link_local):
        raise ScalarError(
            f"must have an interface if it is link-local ([fe80::1%eth0]:4433), and none else, not {shown(text)}"
        )
    return Endpoint(f"{address}%{scope}" if scope else str(address), int(match[4])), address


def _endpoint_hint(text: str) -> str:
    """Say what an address must be, and what this one probably lacks."""
    wanted = f"must be an IP address and a port (127.0.0.1:4433 or [::1]:4433), not {shown(text)}"
    host, _, port = text.rpartition(":")
    if (bare := _ip_address(text.strip("[]"))) is not None:
        return f"{wanted}: add the port" if bare.version == 4 else f"{wanted}: add [] and the port"
    if _ip_address(host) is not None and ":" in host:
        return f"{wanted}: write [{host}]:{port}"
    if re.fullmatch(r"[A-Za-z0-9_-]*[A-Za-z_-][A-Za-z0-9_.-]*", host or text):
        return f"{wanted}: names are not looked up here; write the IP address, or let `discovery` ask for the name"
    return wanted


def _ip_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address in a text, None where it is none. An IPv4-mapped IPv6 address becomes the IPv4 one.

    This is the one place where addresses of the configuration are read, so every plane, probe and check sees an
    address in the same form.
    """
    try:
        return canonical_address(text)
    except ValueError:
        return None


def _boolean(text: str) -> bool:
    """Read true, yes, false or no, in small letters, in capitals or with a first capital. on, off and 1 are none."""
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise ScalarError(f"must be true or false (or yes or no), not {shown(text)}")


def _hex_key(text: str) -> bytes:
    """Read a key. What is wrong is said without the key."""
    if len(text) == 2 * KEY_BYTES and _HEX_OCTETS.fullmatch(text):
        return bytes.fromhex(text)
    found = f"{len(text)} characters" if len(text) != 2 * KEY_BYTES else "one that is no hex digit"
    raise ScalarError(
        f"must be {2 * KEY_BYTES} hex digits ({KEY_BYTES} octets), as `qlb keygen` prints them; "
        f"it has {found} (value not shown)"
    )


def _server_id(text: str) -> bytes:
    if _HEX_OCTETS.fullmatch(text) and len(text) <= 2 * MAX_SERVER_ID_BYTES:
        return bytes.fromhex(text)
    hint = "; drop the 0x" if text.lower().startswith("0x") else ""
    raise ScalarError(
        f"must be hex digits, two for each octet, 1 to {MAX_SERVER_ID_BYTES} octets (c0ffee01), not {shown(text)}{hint}"
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
    """Take the name of a source of backends, with which their names begin."""
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
    """Take the address of a DNS server; the port is 53 where none is written."""
    address = _ip_address(text.strip("[]"))
    found = _endpoint(text)[0] if address is None else Endpoint(str(address), DNS_PORT)
    if found.port == 0:
        raise ScalarError(f"must have a port from 1 to {MAX_PORT}, not {shown(text)}")
    return found


def _path(text: str) -> Path:
    # A control character or half of a surrogate pair is legal in a quoted YAML string and in no file name.
    if text and text.isprintable():
        return Path(text)
    raise ScalarError(f"must be the name of a file, not {shown(text)}")


def _alpn(text: str) -> str:
    """Take the name of an application protocol. Spec: RFC 7301, section 3.2; only names that can be written here."""
    if not _ALPN.fullmatch(text):
        raise ScalarError(f"must be a protocol's name of 1 to 255 visible characters (h3), not {shown(text)}")
    return text


def _server_name(text: str) -> str:
    """Take a DNS host name, as TLS sends it. Spec: RFC 6066, section 3."""
    if not _SERVER_NAME.fullmatch(text):
        hint = "; TLS has no final dot" if text.endswith(".") else ""
        raise ScalarError(f"must be a host name such as agents.example.com, not {shown(text)}{hint}")
    return text


def _dns_name(text: str) -> str:
    """Take a name to ask DNS for. The final dot, which says that the name is complete, may be there."""
    if not _SERVER_NAME.fullmatch(text.removesuffix(".")):
        raise ScalarError(f"must be a DNS name such as agents.example.com, not {shown(text)}")
    return text.removesuffix(".")


def _service(text: str) -> str:
    """Take a Service of Kubernetes with its namespace."""
    if not _SERVICE.fullmatch(text):
        raise ScalarError(f"must be NAMESPACE/SERVICE such as voice/agents, not {shown(text)}")
    return text


def _port_name(text: str) -> str:
    """Take the name of a port of a Service."""
    if not _LABEL.fullmatch(text):
        raise ScalarError(f"must be the name of a port such as quic, not {shown(text)}")
    return text


def _balancer(text: str) -> str:
    """Take the address of an admin server, or an absolute path of a control socket."""
    if not _ADMIN_URL.fullmatch(text) and not (text.startswith("/") and "\0" not in text):
        raise ScalarError(f"must be http://ADDRESS:PORT or the absolute path of a control socket, not {shown(text)}")
    return text.removesuffix("/") if "://" in text else text


def _spellings(*words: str) -> frozenset[str]:
    return frozenset(spelling for word in words for spelling in (word, word.capitalize(), word.upper()))


_TRUE: Final = _spellings("true", "yes")
_FALSE: Final = _spellings("false", "no")

BOOLEAN: Final = Scalar(_boolean, {"type": ["boolean", "string"], "enum": [True, False, *sorted(_TRUE | _FALSE)]})
HEX_KEY: Final = Scalar(
    _hex_key, {"type": ["string", "number"], "pattern": f"^[0-9A-Fa-f]{{{2 * KEY_BYTES}}}$", "writeOnly": True}
)
SERVER_ID: Final = Scalar(
    _server_id,
    {"type": ["string", "number"], "pattern": f"^([0-9A-Fa-f]{{2}}){{1,{MAX_SERVER_ID_BYTES}}}$"},
)
NAME: Final = Scalar(_name, {"type": ["string", "number"], "pattern": f"^{_NAME.pattern}$"})
INTERFACE: Final = Scalar(_interface, {"type": ["string", "number"], "pattern": f"^{_INTERFACE.pattern}$"})
ALPN: Final = Scalar(_alpn, {"type": ["string", "number"], "pattern": f"^{_ALPN.pattern}$"})
SERVER_NAME: Final = Scalar(_server_name, {"type": ["string", "number"], "pattern": f"^{_SERVER_NAME.pattern}$"})
DNS_NAME: Final = Scalar(_dns_name, {"type": ["string", "number"], "pattern": rf"^{_SERVER_NAME.pattern}\.?$"})
SERVICE: Final = Scalar(_service, {"type": "string", "pattern": f"^{_SERVICE.pattern}$"})
PORT_NAME: Final = Scalar(_port_name, {"type": ["string", "number"], "pattern": f"^{_LABEL.pattern}$"})
BALANCER: Final = Scalar(_balancer, {"type": "string", "pattern": f"^({_ADMIN_URL.pattern}|/.*)$"})
SOURCE_NAME: Final = Scalar(
    _source_name, {"type": ["string", "number"], "pattern": f"^{_NAME.pattern}$", "maxLength": MAX_SOURCE_CHARACTERS}
)
NETWORK: Final = Scalar(_network, {"type": "string", "pattern": "^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$"})
RESOLVER: Final = Scalar(_resolver, {"type": "string", "minLength": 2})
PATH: Final = Scalar(_path, {"type": ["string", "number"], "minLength": 1})
