"""The kinds of scalars: the texts that they accept, the values, and the messages about other texts."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qlb.addresses import Endpoint
from qlb.config.model import BACKEND_ADDRESS, CONFIG_ID
from qlb.config.names import HEX_KEY, NAME, PATH, SERVER_ID
from qlb.config.scalars import (
    BOOLEAN,
    Scalar,
    ScalarError,
    Size,
    choice,
    duration,
    duration_text,
    size,
    whole_number,
)
from qlb.config.sections import ADMIN_ADDRESS, LISTEN_ADDRESS, WORKERS
from qlb.routing.backends import BackendState

KINDS: tuple[Scalar[Any], ...] = (
    BOOLEAN,
    HEX_KEY,
    NAME,
    PATH,
    SERVER_ID,
    CONFIG_ID,
    LISTEN_ADDRESS,
    BACKEND_ADDRESS,
    ADMIN_ADDRESS,
    WORKERS,
    duration("0s", "1h"),
    size("4KiB", "1GiB"),
    choice(BackendState),
)


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("6", 6), ("01", 1), ("000", 0)])
def test_whole_numbers(text: str, value: int) -> None:
    """Whole numbers are decimal digits; leading zeros are allowed."""
    assert CONFIG_ID.parse(text) == value


@pytest.mark.parametrize(
    "text", ["", "7", "-1", "+1", "1.0", "1e0", "0x1", "1_0", " 1", "²", "\u0661", "one", "9" * 5000, "true"]
)
def test_what_is_no_whole_number(text: str) -> None:
    """Numbers are never rounded, cut or clamped, and digits of other scripts are rejected."""
    with pytest.raises(ScalarError, match=r"^must be a whole number from 0 to 6, not "):
        CONFIG_ID.parse(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0s", 0.0), ("500ms", 0.5), ("300ms", 0.3), ("30s", 30.0), ("1.5s", 1.5), ("5m", 300.0), ("1h", 3600.0)],
)
def test_durations(text: str, seconds: float) -> None:
    """A duration is a float in seconds, without rounding errors."""
    assert duration("0s", "1h").parse(text) == seconds


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("30", "must be a number and a unit (500ms, 30s, 5m, 1h), not '30': add the unit, for example 30s"),
        ("", "must be a number and a unit (500ms, 30s, 5m, 1h), not ''"),
        ("1d", "must be a number and a unit (500ms, 30s, 5m, 1h), not '1d': write 24h"),
        ("1y", "must be a number and a unit (500ms, 30s, 5m, 1h), not '1y'"),
        ("-1s", "must be a number and a unit (500ms, 30s, 5m, 1h), not '-1s'"),
        ("1e3s", "must be a number and a unit (500ms, 30s, 5m, 1h), not '1e3s'"),
        ("30 s", "must be a number and a unit (500ms, 30s, 5m, 1h), not '30 s': write 30s"),
        ("0s", "must be a duration from 1ms to 1h, not '0s'"),
        ("61m", "must be a duration from 1ms to 1h, not '61m'"),
    ],
)
def test_what_is_no_duration(text: str, says: str) -> None:
    """A message suggests a missing unit, and names both bounds."""
    with pytest.raises(ScalarError) as caught:
        duration("1ms", "1h").parse(text)
    assert str(caught.value) == says


@settings(deadline=None)
@given(st.one_of(st.integers(0, 10**6).map(lambda n: n / 1000), st.integers(0, 10**5).map(float)))
def test_duration_text_reads_back(seconds: float) -> None:
    """duration_text() inverts the parsing of whole milliseconds."""
    assert duration("0s", "999999h").parse(duration_text(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("127.0.0.1:4433", Endpoint("127.0.0.1", 4433)),
        ("[::1]:4433", Endpoint("::1", 4433)),
        ("[2001:DB8:0::1]:65535", Endpoint("2001:db8::1", 65535)),
        ("[::ffff:10.0.0.1]:1", Endpoint("10.0.0.1", 1)),
        ("[::FFFF:a00:1]:1", Endpoint("10.0.0.1", 1)),
        ("[0:0:0:0:0:ffff:10.0.0.1]:1", Endpoint("10.0.0.1", 1)),
        ("[::ffff:0:10.0.0.1]:1", Endpoint("::ffff:0:a00:1", 1)),
        ("[fe80::1%eth0]:4433", Endpoint("fe80::1%eth0", 4433)),
    ],
)
def test_endpoints(text: str, endpoint: Endpoint) -> None:
    """IP literals become canonical, so that two spellings of one address are equal."""
    assert BACKEND_ADDRESS.parse(text) == endpoint
    assert LISTEN_ADDRESS.parse(text) == endpoint
    assert BACKEND_ADDRESS.parse(str(endpoint)) == endpoint


def test_only_a_service_may_be_a_wildcard_or_have_port_0() -> None:
    """A wildcard and port 0 can be bound, but nothing can be sent to them."""
    for text in ("0.0.0.0:4433", "[::]:4433", "[::ffff:0.0.0.0]:4433", "127.0.0.1:0", "[::ffff:224.0.0.1]:4433"):
        LISTEN_ADDRESS.parse(text)
        with pytest.raises(ScalarError):
            BACKEND_ADDRESS.parse(text)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (
            "web-1.example.net:443",
            "names are not resolved here; write the IP address, or use `discovery` to resolve the name",
        ),
        ("localhost:443", "write 127.0.0.1:443"),
        ("localhost", "write 127.0.0.1:4433"),
        ("edge:443", "names are not resolved here; write the IP address, or use `discovery` to resolve the name"),
        ("edge", "names are not resolved here; write the IP address, or use `discovery` to resolve the name"),
        ("10.0.0.1", "add the port"),
        ("2001:db8::1", "add [] and the port"),
        ("[2001:db8::1]", "add [] and the port"),
        ("2001:db8:0:0:0:0:0:1:443", "write [2001:db8:0:0:0:0:0:1]:443"),
        ("300.0.0.1:443", "not '300.0.0.1:443'"),
        ("010.0.0.1:443", "not '010.0.0.1:443'"),
        ("10.0.0.1:65536", "must have a port from 1 to 65535, not '10.0.0.1:65536'"),
        ("10.0.0.1:https", "not '10.0.0.1:https'"),
        ("10.0.0.1:", "not '10.0.0.1:'"),
        (":4433", "not ':4433'"),
        ("", "not ''"),
        ("[fe80::1]:443", "must have an interface if and only if it is link-local"),
        ("[2001:db8::1%eth0]:443", "must have an interface if and only if it is link-local"),
        ("[fe80::1%e th]:443", "not '[fe80::1%e th]:443'"),
    ],
)
def test_what_is_no_endpoint(text: str, hint: str) -> None:
    """A message suggests the correction."""
    with pytest.raises(ScalarError, match=r"^must (be|have) ") as caught:
        BACKEND_ADDRESS.parse(text)
    assert str(caught.value).endswith(hint) or hint in str(caught.value)


def test_words_beside_values() -> None:
    """`workers: auto` and `listen: none` are words; a message about another text names both forms."""
    assert WORKERS.parse("auto") == "auto"
    assert WORKERS.parse("4") == 4
    assert ADMIN_ADDRESS.parse("none") is None
    with pytest.raises(ScalarError, match=r"from 1 to 1024, not 'all' \(or the word auto\)$"):
        WORKERS.parse("all")


@pytest.mark.parametrize("text", ["true", "True", "TRUE", "yes", "Yes", "YES"])
def test_true(text: str) -> None:
    """True has six spellings."""
    assert BOOLEAN.parse(text) is True


@pytest.mark.parametrize("text", ["false", "False", "FALSE", "no", "No", "NO"])
def test_false(text: str) -> None:
    """False has six spellings."""
    assert BOOLEAN.parse(text) is False


@pytest.mark.parametrize("text", ["on", "off", "1", "0", "y", "n", "tRUE", ""])
def test_what_is_no_boolean(text: str) -> None:
    """The other spellings of YAML 1.1 are rejected."""
    with pytest.raises(ScalarError, match="must be true or false"):
        BOOLEAN.parse(text)


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("4096", 4096),
        ("04096", 4096),
        ("512KiB", 1 << 19),
        ("4MiB", 1 << 22),
        ("1GiB", 1 << 30),
        ("1000KiB", 1_024_000),
    ],
)
def test_sizes(text: str, octets: int) -> None:
    """A size is an exact number of octets, and its text parses to the same number."""
    kind = size("4KiB", "1GiB")
    assert kind.parse(text) == octets
    assert kind.parse(str(kind.parse(text))) == octets


@pytest.mark.parametrize(
    ("octets", "text"), [(0, "0"), (1, "1"), (1000, "1000"), (4096, "4KiB"), (3 << 20, "3MiB"), (1 << 40, "1024GiB")]
)
def test_size_text(octets: int, text: str) -> None:
    """The text of a size uses the largest unit that divides it."""
    assert str(Size(octets)) == text


@pytest.mark.parametrize(
    "text", ["", "4M", "4MB", "4mib", "4 MiB", "-1", "1.5MiB", "1e6", "0x1000", "9" * 13, "\u0664"]
)
def test_what_is_no_size(text: str) -> None:
    """Decimal units are rejected, and nothing is rounded."""
    with pytest.raises(
        ScalarError, match=r"^must be a number of octets, or a number with a unit \(512KiB, 4MiB\), not "
    ):
        size("4KiB", "1GiB").parse(text)


@pytest.mark.parametrize("text", ["0", "4095", "3KiB", "1025MiB", "2GiB", "999999999999GiB"])
def test_sizes_are_not_clamped(text: str) -> None:
    """A message names both bounds."""
    with pytest.raises(ScalarError, match=r"^must be a size from 4KiB to 1GiB, not "):
        size("4KiB", "1GiB").parse(text)


def test_choices() -> None:
    """Words must be spelt exactly; a message suggests a similar one."""
    planes = choice(("auto", "batch"))
    assert planes.parse("batch") == "batch"
    assert choice(BackendState).parse("draining") is BackendState.DRAINING
    with pytest.raises(ScalarError, match=r"must be one of auto, batch, not 'Batch'; did you mean batch\?$"):
        planes.parse("Batch")
    with pytest.raises(ScalarError, match=r"must be one of auto, batch, not 'zzz'$"):
        planes.parse("zzz")


@pytest.mark.parametrize("text", ["00", "010203", "1e3f", "C0FFEE01", "00" * 15])
def test_server_ids(text: str) -> None:
    """Server IDs are hex in either case, one to fifteen octets."""
    assert SERVER_ID.parse(text) == bytes.fromhex(text)


def test_colons_between_octets() -> None:
    """Keys and server IDs may have the form of YANG, in which `qlb server-config --yang` prints them."""
    key = bytes(range(16))
    assert HEX_KEY.parse(key.hex(":")) == HEX_KEY.parse(key.hex(":").upper()) == key
    assert SERVER_ID.parse("c0:ff:EE:01") == bytes.fromhex("c0ffee01")
    for text in ("c0:ff:", ":c0:ff", "c0::ff", "c:0:ff", "c0ff:ee"):
        with pytest.raises(ScalarError):
            SERVER_ID.parse(text)


@pytest.mark.parametrize("text", ["", "0", "1e3", "0x01", "zz", "00 11", "00:1", "00" * 16, "00:" * 15 + "00", "é0"])
def test_what_is_no_server_id(text: str) -> None:
    """An odd number of digits, other characters and too many octets are rejected."""
    with pytest.raises(ScalarError, match="must be 1 to 15 octets in hex, two digits for each"):
        SERVER_ID.parse(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("0" * 31, "31 hex digits, 1 too few"),
        ("0" * 33, "33 hex digits, 1 too many"),
        ("0" * 64, "64 hex digits, as a key of AES-256"),
        ("0x" + "0" * 32, "remove the 0x"),
        ("00 " * 15 + "00", "remove them"),
        ("0" * 31 + "g", "a character that is not a hex digit"),
        ("ABEiM0RVZneImaq7zN3u/w==", "it looks like Base64"),
        ("a word", "6 characters"),
        ("", "it is empty"),
    ],
)
def test_what_is_no_key_is_said_without_it(text: str, found: str) -> None:
    """A message about an invalid key gives its length or fault, but not its value."""
    with pytest.raises(ScalarError) as caught:
        HEX_KEY.parse(text)
    assert found in str(caught.value)
    assert len(text) < 2 or text not in str(caught.value)


def test_names_and_paths() -> None:
    """Names are safe in labels, URLs and commands; paths are safe in system calls."""
    for name in ("a", "agent-a", "10.0.0.1:4433", "A" * 64):
        assert NAME.parse(name) == name
    for name in ("", "-a", "a b", "a/b", "é", "A" * 65, "a\n"):
        with pytest.raises(ScalarError):
            NAME.parse(name)
    assert PATH.parse("keys/ü 1.hex") == Path("keys/ü 1.hex")
    for path in ("", "a\0b", "\ud800", "a\nb"):
        with pytest.raises(ScalarError):
            PATH.parse(path)


@settings(deadline=None)
@given(st.sampled_from(KINDS), st.text())
def test_any_text_is_read_or_refused(kind: Scalar[Any], text: str) -> None:
    """Any text gives a value or a ScalarError with one printable line; read() agrees with parse()."""
    value = kind.read(text)
    try:
        assert kind.parse(text) == value
    except ScalarError as error:
        message = str(error)
    else:
        message = ""
    assert message.isprintable()
    assert message == "" or value is None


@settings(deadline=None)
@given(st.integers(), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_number_is_never_clamped(value: int, low: int, high: int) -> None:
    """A number is accepted unchanged or rejected."""
    kind = whole_number(low, high)
    assert kind.read(str(value)) == (value if low <= value <= high and value >= 0 else None)
