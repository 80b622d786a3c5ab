"""The floors: imports only go down and form no cycle, floors 0 to 2 are pure, no mutable globals.

The sources are read with ast, including imports inside functions and under TYPE_CHECKING. Strings that name a module
of qlb count too, because the code imports from tables of names.
"""

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
SOURCES: Final = tuple(sorted((ROOT / "qlb").rglob("*.py")))

FLOORS: Final = (
    ("qlb", "qlb.errors", "qlb.addresses", "qlb.wire"),
    ("qlb.cid",),
    ("qlb.routing",),
    ("qlb.local_addresses", "qlb.default_socket"),
    ("qlb.config", "qlb.dataplane", "qlb.discovery", "qlb.health", "qlb.observe", "qlb.adapters"),
    ("qlb.handover", "qlb.rotation", "qlb.demo"),
    ("qlb.workers",),
    ("qlb.admin",),
    ("qlb.daemon",),
    ("qlb.cli", "qlb.__main__"),
)
"""Rooms from the lowest floor to the highest; docs/architecture.md calls the last ones 3, 4a, 4b, 4c and 5."""
PURE: Final = 2
"""The highest floor without sockets, clocks and files."""
IMPURE_MODULE: Final = "qlb.cid.files"
"""The exception: it reads and follows the file of ``from_file`` in a server. See docs/architecture.md."""
TOP: Final = len(FLOORS) - 1
FLOOR: Final = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

IMPURE: Final = frozenset(
    [
        "aiohttp",
        "asyncio",
        "click",
        "concurrent",
        "datetime",
        "http",
        "logging",
        "multiprocessing",
        "pathlib",
        "prometheus_client",
        "random",
        "secrets",
        "select",
        "selectors",
        "signal",
        "socket",
        "ssl",
        "subprocess",
        "tempfile",
        "threading",
        "time",
        "urllib",
        "uvloop",
        "yaml",
    ]
)
"""Modules that floors 0 to 2 never import: sockets, loops, clocks, files, logs, metrics, threads, and their users."""

HEAVY: Final = ("asyncio", "yaml", "uvloop", "prometheus_client", "aiohttp", "click")
"""Modules that must not be loaded in a server that embeds qlb.cid."""

MUTABLE_CALLS: Final = frozenset({"dict", "list", "set", "bytearray", "defaultdict", "deque", "OrderedDict", "Counter"})
MUTATORS: Final = frozenset(
    [
        "add",
        "append",
        "appendleft",
        "clear",
        "discard",
        "extend",
        "insert",
        "pop",
        "popitem",
        "popleft",
        "remove",
        "setdefault",
        "sort",
        "update",
    ]
)


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES: Final = frozenset(map(_module, SOURCES))


def _room(module: str) -> str:
    """Return the part of a module's name that is in FLOORS: ``qlb.cid`` for ``qlb.cid.codec``."""
    return ".".join(module.split(".")[:2])


def _part(module: str) -> str:
    """Return up to three parts of a module's name: a package inside a room is one part of it."""
    return ".".join(module.split(".")[:3])


def _absolute(node: ast.ImportFrom, path: Path) -> str:
    if not node.level:
        return node.module or ""
    package = [*path.relative_to(ROOT).parent.parts]
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


@functools.cache
def _nodes(source: str) -> tuple[ast.AST, ...]:
    """Return all nodes of a source, its module first. Each source is parsed once for all checks."""
    return tuple(ast.walk(ast.parse(source)))


def imports(path: Path) -> Iterator[str]:
    """Yield the name of every module that a file imports or names in a string."""
    for node in _nodes(path.read_text()):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, path)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names if f"{base}.{alias.name}" in MODULES)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in MODULES - {"qlb"}:
            yield node.value


def _below(top: int) -> list[Path]:
    return [path for path in SOURCES if FLOOR[_room(_module(path))] <= top]


def _pure() -> list[Path]:
    return [path for path in _below(PURE) if _module(path) != IMPURE_MODULE]


def _by_name(path: Path) -> str:
    return _module(path)


def test_every_room_has_a_floor() -> None:
    """A new room must have a floor, and FLOORS names no room that does not exist."""
    assert {_room(module) for module in MODULES} == set(FLOOR)


@pytest.mark.parametrize("path", SOURCES, ids=_by_name)
def test_imports_only_go_down(path: Path) -> None:
    """A module imports from its own room or from a lower floor, so rooms of one floor never import each other."""
    room = _room(_module(path))
    wrong = {
        name
        for name in imports(path)
        if name.split(".")[0] == "qlb" and _room(name) != room and FLOOR[_room(name)] >= FLOOR[room]
        # The package itself, its errors and its addresses are below everything, although wire is on floor 0 too.
        if name not in ("qlb", "qlb.errors", "qlb.addresses")
        # The two parts of the top floor are one room: `python -m qlb` is the command line.
        if FLOOR[room] != TOP
    }
    assert not wrong, f"{_module(path)} imports {sorted(wrong)}"


def _find_cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """Return the parts of one import cycle in order; empty if there is none."""
    done: set[str] = set()

    def visit(part: str, above: list[str]) -> list[str]:
        if part in above:
            return above[above.index(part) :]
        if part in done:
            return []
        found = next(filter(None, (visit(other, [*above, part]) for other in sorted(graph[part]))), [])
        done.add(part)
        return found

    return next(filter(None, (visit(part, []) for part in sorted(graph))), [])


def test_no_import_cycle() -> None:
    """No two parts of the product import each other, directly or through others. A package in a room is one part."""
    graph: dict[str, set[str]] = {_part(module): set() for module in MODULES}
    for path in SOURCES:
        part = _part(_module(path))
        others = {_part(name) for name in imports(path) if name in MODULES and not part.startswith(f"{name}.")}
        graph[part] |= others - {part}
    assert _find_cycle(graph) == []


@pytest.mark.parametrize(
    ("graph", "cycle"),
    [
        ({"a": {"b"}, "b": set()}, []),
        ({"a": {"b"}, "b": {"a"}}, ["a", "b"]),
        ({"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": {"b"}}, ["b", "c", "d"]),
        ({"a": {"c"}, "b": {"c"}, "c": set()}, []),
    ],
)
def test_the_finder_of_cycles(graph: dict[str, set[str]], cycle: list[str]) -> None:
    """The check itself finds a cycle of any length, and accepts two paths to one part."""
    assert _find_cycle(graph) == cycle


@pytest.mark.parametrize("path", _pure(), ids=_by_name)
def test_floors_0_to_2_are_pure(path: Path) -> None:
    """These floors import no socket, loop, clock, file, log or metric, and only cryptography of foreign packages."""
    tops = {name.split(".")[0] for name in imports(path)} - {"qlb"}
    foreign = tops - sys.stdlib_module_names
    assert not tops & IMPURE
    assert foreign <= ({"cryptography"} if FLOOR[_room(_module(path))] else set())


@pytest.mark.parametrize("path", _pure(), ids=_by_name)
def test_floors_0_to_2_open_no_file_and_print_nothing(path: Path) -> None:
    """These floors do not call the builtins that need no import either."""
    called = {
        node.func.id
        for node in _nodes(path.read_text())
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {"open", "print", "input", "exec", "eval", "__import__"}


def test_only_two_methods_import_the_impure_module() -> None:
    """Floors 0 to 2 import the module that reads files inside functions named from_file, and nowhere else."""
    importers = [path for path in _below(PURE) if IMPURE_MODULE in imports(path) and _module(path) != IMPURE_MODULE]
    assert [_module(path) for path in importers] == ["qlb.cid.generator", "qlb.cid.source"]
    for path in importers:
        tree = _nodes(path.read_text())
        allowed = [node for node in tree if isinstance(node, ast.FunctionDef) and node.name == "from_file"]
        allowed += [node for node in tree if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
        inside = {id(child) for node in allowed for child in ast.walk(node)}
        found = [node for node in tree if isinstance(node, ast.ImportFrom) and node.module == IMPURE_MODULE]
        assert found
        assert all(id(node) in inside for node in found), _module(path)


@pytest.mark.parametrize("module", ["qlb.cid", "qlb.routing.router", "qlb.routing.counters", "qlb.wire.versions"])
def test_embedding_brings_nothing_heavy(module: str) -> None:
    """In a fresh interpreter, floors 0 to 2 load no loop, no parser, no metrics and no command line."""
    unwanted = {*HEAVY, IMPURE_MODULE, "logging", "threading"}
    program = f"import sys, {module}; print(*sorted(set(sys.modules) & {unwanted!r}))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == []


def test_importing_the_package_imports_nothing_else() -> None:
    """``import qlb`` loads no other module of qlb."""
    program = "import sys, qlb; print(*(name for name in sys.modules if name.startswith('qlb.')))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == []


def _is_mutable(value: ast.expr | None) -> bool:
    if isinstance(value, ast.Call):
        function = value.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        return name in MUTABLE_CALLS
    return isinstance(value, ast.Dict | ast.List | ast.Set | ast.DictComp | ast.ListComp | ast.SetComp)


def _mutable_globals(nodes: tuple[ast.AST, ...]) -> dict[str, bool]:
    """Return the mutable names at the top of a module → whether they are declared Final."""
    module = nodes[0]
    assert isinstance(module, ast.Module)
    found = {}
    for node in module.body:
        if isinstance(node, ast.AnnAssign) and _is_mutable(node.value) and isinstance(node.target, ast.Name):
            found[node.target.id] = "Final" in ast.unparse(node.annotation)
        elif isinstance(node, ast.Assign) and _is_mutable(node.value):
            found |= {target.id: False for target in node.targets if isinstance(target, ast.Name)}
    found.pop("__all__", None)
    return found


def _mutated(nodes: tuple[ast.AST, ...]) -> set[str]:
    """Return the names that the file stores into, deletes from, or calls a mutating method of."""
    changed: set[str] = set()
    for node in nodes:
        target: ast.expr | None = None
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
            target = node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MUTATORS:
            target = node.func.value
        elif isinstance(node, ast.AugAssign):
            target = node.target
        if isinstance(target, ast.Name):
            changed.add(target.id)
    return changed


@pytest.mark.parametrize("path", SOURCES, ids=_by_name)
def test_no_mutable_globals(path: Path) -> None:
    """Mutable tables at the top of a module are Final, never changed in the file, and ``global`` is not used.

    The check reads one file at a time: it does not find a table that another module changes.
    """
    nodes = _nodes(path.read_text())
    tables = _mutable_globals(nodes)
    assert [name for name, final in tables.items() if not final] == []
    assert not set(tables) & _mutated(nodes)
    assert not any(isinstance(node, ast.Global) for node in nodes)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import a.b", {"a.b"}),
        ("from qlb import cid", {"qlb", "qlb.cid"}),
        ("from qlb.cid import CidCodec", {"qlb.cid"}),
        (
            "from . import codec\nfrom ..wire import versions",
            {"qlb.cid", "qlb.cid.codec", "qlb.wire", "qlb.wire.versions"},
        ),
        ("def f():\n    import time", {"time"}),
        ("if TYPE_CHECKING:\n    from qlb.daemon import x", {"qlb.daemon"}),
        ("NAMES = {'asyncio': 'qlb.dataplane.portable.plane'}", {"qlb.dataplane.portable.plane"}),
    ],
)
def test_the_reader_of_imports(source: str, found: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The check finds every way to import that it claims to find."""
    monkeypatch.setattr(Path, "read_text", lambda _path: source)
    assert set(imports(ROOT / "qlb" / "cid" / "some.py")) == found


@pytest.mark.parametrize(
    ("source", "tables", "mutated"),
    [
        ("A = {}", {"A": False}, set()),
        ("A: Final = {}\nA['x'] = 1", {"A": True}, {"A"}),
        ("A: list[int] = list()\ndef f(): A.append(1)", {"A": False}, {"A"}),
        ("A: Final[dict[str, int]] = {n: n for n in ()}\nprint(A['x'])", {"A": True}, set()),
        ("__all__ = ['A']\nA = (1, 2)", {}, set()),
        ("A: Final = [1]\nA += [2]", {"A": True}, {"A"}),
    ],
)
def test_the_reader_of_globals(source: str, tables: dict[str, bool], mutated: set[str]) -> None:
    """The check distinguishes a table from a constant, and reading from changing."""
    assert (_mutable_globals(_nodes(source)), _mutated(_nodes(source))) == (tables, mutated)
