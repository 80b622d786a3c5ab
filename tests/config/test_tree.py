"""YAML to a tree: valid YAML that qlb rejects, and the position of each problem."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from qlb.config.problems import MAX_SHOWN, Mark, Problems
from qlb.config.tree import MAX_DEPTH, MIN_FAST, MappingNode, Node, ScalarNode, SequenceNode, locate, parse
from qlb.errors import ConfigError

Lines = Callable[[str], tuple[str, ...]]


def tree(text: str) -> tuple[MappingNode, tuple[str, ...]]:
    """Parse a text; return the tree and the problems."""
    problems = Problems(Path("x"))
    return parse(text, problems), problems.lines()


def to_data(node: Node) -> object:
    """Return a tree as dicts, lists, strings and None."""
    if isinstance(node, ScalarNode):
        return None if node.is_null else node.text
    if isinstance(node, SequenceNode):
        return [to_data(item) for item in node.items]
    return {key.text: to_data(value) for key, value in node.entries}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("010203", "010203"),
        ("01", "01"),
        ("1e3", "1e3"),
        ("12:30", "12:30"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("yes", "yes"),
        ("2024-01-01", "2024-01-01"),
        ("!!", None),
        (".inf", ".inf"),
        ("'null'", "null"),
        ('"~"', "~"),
        ("''", ""),
    ],
)
def test_scalars_are_their_text(written: str, read: str | None) -> None:
    """A scalar remains text, even if YAML 1.1 reads it as a number, a time or a date."""
    if read is None:
        with pytest.raises(ConfigError):
            tree(f"a: {written}")
    else:
        assert to_data(tree(f"a: {written}")[0]) == {"a": read}


@pytest.mark.parametrize("written", ["", "~", "null", "Null", "NULL"])
def test_plain_null_is_nothing(written: str) -> None:
    """The five unquoted spellings of null are None, and get() treats them as absent."""
    root, _ = tree(f"a: {written}\nb: [{written or '~'}]")
    assert to_data(root) == {"a": None, "b": [None]}
    assert root.get("a") is None
    assert root.get("c") is None


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "x:1:1: the file is empty"),
        ("# only a comment\n", "x:1:1: the file is empty"),
        ("---\n...\n", "x:1:1: the file is empty"),
        ("~", "x:1:1: the file is empty"),
        ("- a\n", "x:1:1: the file must be a mapping"),
        ("\n  hello", "x:2:3: the file must be a mapping"),
        ("a: 1\n---\nb: 2\n", "x:2:1: a second YAML document starts here"),
        ("a: [1, 2\n", "x:2:1: not valid YAML: expected ',' or ']'"),
        ("a: b: c", "x:1:5: not valid YAML: mapping values are not allowed here (indent"),
        ("a:\n\t- b", "x:2:1: not valid YAML: found character '\\t' that cannot start any token (indent with spaces"),
        ("a: 1\nkey:00ff\nb: 2", "x:3:1: not valid YAML: could not find expected ':' (write `key: value`"),
        ("a: [::1]:5001", "x:1:5: not valid YAML: expected the node content, but found ':' (quote the whole value"),
        ("a: [1::1]:5001", "x:1:10: not valid YAML: expected <block end>, but found '<scalar>' (quote the whole"),
        ("a: 'x", "x:1:6: not valid YAML: found unexpected end of stream"),
        ("a: 1\nb: \x07", "x:2:4: not valid YAML: character U+0007: special characters are not allowed"),
        ('a: "\\UFFFFFFFF"', "x:1:"),
        ("%YAML 1." + "9" * 5000 + "\n---\na: 1", "x:1:"),
        ("a: " + "[" * 100_000, f"x:1:{4 + MAX_DEPTH - 1}: nested more than {MAX_DEPTH} levels deep"),
        ("? " * 5_000, "x:1:"),
        ("a: " + "{b: " * 50, "x:1:"),
    ],
)
def test_unreadable_text_is_one_problem_with_a_position(text: str, line: str) -> None:
    """If parsing cannot continue, the error gives the position and a hint."""
    with pytest.raises(ConfigError) as caught:
        tree(text)
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(line)


@pytest.mark.parametrize(
    ("text", "line", "data"),
    [
        ("a: 1\nb: 2\na: 3", "x:3:1: duplicate key 'a': also in line 1; remove one", {"a": "1", "b": "2"}),
        ("b: {c: 1, 'c': 2}", "x:1:11: duplicate key 'c': also in line 1; remove one", {"b": {"c": "1"}}),
        ("[a]: b\nc: d", "x:1:1: a key must be a single word, not a list or a mapping", {"c": "d"}),
        ("a: &name b", "x:1:4: anchors (&name) are not supported: write the value where it is used", {"a": "b"}),
        ("a: *name", "x:1:4: aliases (*name) are not supported: write the value here", {"a": ""}),
        ("a: !!int 1", "x:1:4: tags (!name) are not supported: the key determines the type of its value", {"a": "1"}),
        ("a: ! [b]", "x:1:4: tags (!name) are not supported: the key determines the type of its value", {"a": ["b"]}),
    ],
)
def test_what_is_refused_does_not_stop_the_reading(text: str, line: str, data: object) -> None:
    """Duplicate keys, anchors, aliases, tags and keys that are not scalars do not stop parsing."""
    root, lines = tree(text)
    assert lines == (line,)
    assert to_data(root) == data


def test_an_alias_bomb_is_only_refused() -> None:
    """An alias is never expanded: nine levels of nine references remain nine lists."""
    text = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10))
    root, lines = tree(text)
    assert len(lines) == 10 + 81
    assert len(root.entries) == 10


def test_an_anchor_inside_itself_is_only_refused() -> None:
    """A node cannot contain itself."""
    assert to_data(tree("a: &a [*a]")[0]) == {"a": [""]}


def test_marks_count_characters_from_one() -> None:
    """Columns count characters, not octets, without a byte order mark."""
    root, _ = tree("é: {ü: x}")
    (_, inner) = root.entries[0]
    assert isinstance(inner, MappingNode)
    assert (inner.mark, inner.entries[0][1].mark) == (Mark(1, 4), Mark(1, 8))


def test_locate_follows_keys_and_indexes_as_far_as_they_lead() -> None:
    """locate() returns path, node and position of a value, a key, or the last existing node."""
    root, _ = tree("a:\n  - b: {1: c}\n")
    path, node, mark = locate(root, ("a", 0, "b", "1"))
    assert (path, mark) == ("a[0].b.1", Mark(2, 12))
    assert isinstance(node, ScalarNode)
    assert locate(root, ("a", 0, "b", "1", "[key]"))[2] == Mark(2, 9)
    assert locate(root, ("a", 0, "b", "1", 0))[0] == "a[0].b.1"
    assert isinstance(locate(root, ("a", "x"))[1], SequenceNode)


def test_the_repr_of_a_node_omits_its_text() -> None:
    """The repr of a scalar does not show its text, which may be a secret."""
    assert "00ff" not in repr(ScalarNode(Mark(1, 1), "00ff"))


SOUND = [
    "a: [1, 'x', \"y\\n\"]\nb: {c: d, e: [f, {g: h}]}\n",
    "a:\n  - b: 1\n    c: ~\n  -   d: null\n# comment\ne: |\n  text\n  more\nf: >-\n  folded\n  text\n",
    "'quoted key': \"é ü\"\nlist:\n- {x: '', y: \"\"}\n",
]
BROKEN = ["a: &x b\nc: *x\n", "a: !!int 1\n", "a: 1\na: 2\n", "[a]: b\nc: d\n", "a: <<\n<<: {x: y}\n"]
STOPPING = ["a: [1, 2\n", "a: b: c", "a: 1\nb: \x07", "a: [::1]:1", "a: 1\n---\nb: 1\n", "a: " + "[" * 99, "\ta: 1"]


@pytest.mark.skipif(not yaml.__with_libyaml__, reason="PyYAML was built without its C scanner")
@pytest.mark.parametrize("text", [*SOUND, *BROKEN])
def test_both_scanners_read_the_same(text: str) -> None:
    """The C scanner gives the same tree, positions and problems as the Python scanner."""
    padding = "# padding\n" * (MIN_FAST // 10 + 1)
    (small, lines), (large, large_lines) = tree(text), tree(text + padding)
    assert (large, large_lines) == (small, lines)


@pytest.mark.parametrize("text", STOPPING)
def test_both_scanners_refuse_the_same(text: str) -> None:
    """A text that the C scanner rejects gets the message and the position of the Python scanner."""
    padding = "# padding\n" * (MIN_FAST // 10 + 1)
    with pytest.raises(ConfigError) as small:
        tree(padding + text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yaml, "CSafeLoader", None)
        with pytest.raises(ConfigError) as slow:
            tree(padding + text)
    assert small.value.problems == slow.value.problems


def test_a_huge_broken_text_is_not_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A huge invalid text is not parsed again by the slow scanner."""
    monkeypatch.setattr("qlb.config.tree.MAX_READ_AGAIN", MIN_FAST)
    monkeypatch.setattr(yaml, "SafeLoader", None)
    with pytest.raises(ConfigError, match="not valid YAML"):
        tree("# padding\n" * MIN_FAST + "a: [")


def test_a_text_with_too_many_values_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of nodes is limited."""
    monkeypatch.setattr("qlb.config.tree.MAX_NODES", 10)
    with pytest.raises(ConfigError, match="x:1:23: more than 10 values"):
        tree("a: [" + "b, " * 20 + "]")


FLOODS = ["a: 1\n" * 20_000, "a: [" + "!x y, " * 20_000 + "]", "a: &x [" + "*x, " * 20_000 + "]"]


@pytest.mark.slow
@pytest.mark.parametrize("text", FLOODS)
def test_a_flood_of_problems_ends_the_reading(text: str) -> None:
    """A hundred problems are reported, and the number of the others is a lower bound."""
    with pytest.raises(ConfigError, match="and at least") as caught:
        tree(text)
    assert len(caught.value.problems) == MAX_SHOWN + 1
