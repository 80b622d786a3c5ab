"""Any text and any octets give a configuration or a ConfigError."""

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qlb.config import load_text
from qlb.config.fields import Section, fields_of
from qlb.config.load import decode
from qlb.config.model import Config
from qlb.errors import ConfigError

PATH = Path("x.yaml")


def told(text: str) -> tuple[str, ...]:
    """Load a text; return its problems or warnings."""
    try:
        return load_text(text, PATH).warnings
    except ConfigError as error:
        return error.problems or ("an error without a problem",)


def are_well_formed(lines: tuple[str, ...]) -> bool:
    """Return whether each line is FILE:LINE:COLUMN: message, in the order of the file."""
    marks = []
    for line in lines:
        path, row, column, message = line.split(":", 3)
        assert path == str(PATH)
        assert message.startswith(" ")
        assert message.isprintable()
        marks.append((int(row), int(column)))
    return marks == sorted(marks) and all(min(mark) >= 1 for mark in marks)


@settings(deadline=None)
@given(st.text())
def test_any_text(text: str) -> None:
    """Random text, mostly not YAML, gives well-formed problems."""
    assert are_well_formed(told(text))


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from("ab01:-?[]{}&*!|>'\"%@`#, \n\t\\\ud800\x00é\u2028\x85\ufeff")))
def test_text_made_of_yaml_signs(text: str) -> None:
    """Random YAML syntax gives well-formed problems."""
    assert are_well_formed(told(text))


@settings(deadline=None)
@given(st.binary())
def test_any_octets(content: bytes) -> None:
    """Random octets give text or a ConfigError."""
    try:
        lines = told(decode(content, PATH))
    except ConfigError as error:
        lines = error.problems
    assert are_well_formed(lines)


def keys(model: type[Section]) -> list[str]:
    """Return every key of the configuration."""
    sections = [field.section for field in fields_of(model).values()]
    return [*fields_of(model), *(key for section in sections if section for key in keys(section))]


SCALARS = st.one_of(
    st.sampled_from(
        ["1", "4", "c0ffee01", "~", "127.0.0.1:4433", "'[::1]:1'", "5s", "auto", "true", "''", "*a", "&b c"]
    ),
    st.integers(-1, 30).map(str),
    st.text(max_size=8).map(lambda text: "'" + "".join(filter(str.isprintable, text)).replace("'", "''") + "'"),
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.lists(st.tuples(st.sampled_from(keys(Config)), inner), max_size=5).map(
            lambda entries: "{" + ", ".join(f"{key}: {value}" for key, value in entries) + "}"
        ),
    ),
    max_leaves=20,
)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([*fields_of(Config), "lisen", "<<"]), TREES), max_size=6))
def test_known_keys_with_any_values(entries: list[tuple[str, str]]) -> None:
    """YAML with known keys in wrong places gives well-formed problems."""
    assert are_well_formed(told("".join(f"{key}: {value}\n" for key, value in entries)))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_sound_file_with_something_else_in_its_middle(sound: str, data: st.DataObject) -> None:
    """A valid file with a random insertion gives well-formed problems or warnings."""
    start = data.draw(st.integers(0, len(sound)))
    end = data.draw(st.integers(start, min(len(sound), start + 12)))
    filling = data.draw(
        st.one_of(st.text(max_size=6), st.sampled_from(["\n", "  ", "- ", "{", "}", "'", ": ", "*a ", "!b "]))
    )
    assert are_well_formed(told(sound[:start] + filling + sound[end:]))
