"""The rooms of the house: who may import whom inside a package, no circles, no name for two things, no detours.

A room is a folder; a file beside the folders of a package is a room of its own. Everything reads the syntax tree, and
each checker is fed seeded violations.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("encoder", "mining", "pipelines")
SOURCES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for folder in ("emsmine", *PACKAGES)
    for path in sorted((ROOT / folder).rglob("*.py"))
}

ARROWS = {
    "encoder/folders": set(),
    "encoder/model": {"encoder/folders"},
    "encoder/protocol": set(),
    "encoder/ems": {"encoder/folders", "encoder/model", "encoder/protocol"},
    "encoder/sbert": {"encoder/ems", "encoder/model", "encoder/protocol"},
    "encoder/registry": {"encoder/protocol"},
    "encoder/data": {"encoder/model", "encoder/protocol"},
    "encoder/training": {
        "encoder/data",
        "encoder/ems",
        "encoder/folders",
        "encoder/model",
        "encoder/protocol",
        "encoder/registry",
    },
    "mining/rounding": set(),
    "mining/neighbours": {"mining/rounding"},
    "mining/text": set(),
    "mining/exact": {"mining/neighbours", "mining/rounding"},
    "mining/selection": {"mining/neighbours"},
    "mining/scoring": {"mining/neighbours", "mining/text"},
    "mining/approximate": {"mining/exact", "mining/neighbours", "mining/rounding", "mining/selection"},
    "mining/evaluate": {"mining/exact", "mining/neighbours", "mining/selection"},
    "pipelines/readers": set(),
    "pipelines/settings": {"pipelines/readers"},
    "pipelines/rescoring": {"pipelines/settings"},
    "pipelines/store": set(),
    "pipelines/configuration": {"pipelines/settings", "pipelines/store"},
    "pipelines/progress": {"pipelines/store"},
    "pipelines/stages": {
        "pipelines/progress",
        "pipelines/readers",
        "pipelines/rescoring",
        "pipelines/settings",
        "pipelines/store",
    },
    "pipelines/stages/search": {"pipelines/settings", "pipelines/stages", "pipelines/store"},
    "pipelines/planning": {"pipelines/settings", "pipelines/store"},
    "pipelines/runner": {
        "pipelines/configuration",
        "pipelines/planning",
        "pipelines/progress",
        "pipelines/rescoring",
        "pipelines/settings",
        "pipelines/stages",
        "pipelines/store",
    },
    "pipelines/direct": {
        "pipelines/configuration",
        "pipelines/progress",
        "pipelines/readers",
        "pipelines/rescoring",
        "pipelines/runner",
        "pipelines/settings",
        "pipelines/stages",
        "pipelines/store",
    },
    "pipelines/bootstrap": {
        "pipelines/configuration",
        "pipelines/direct",
        "pipelines/runner",
        "pipelines/settings",
        "pipelines/stages",
        "pipelines/store",
    },
    "pipelines/cli": {
        "pipelines/configuration",
        "pipelines/direct",
        "pipelines/rescoring",
        "pipelines/runner",
        "pipelines/settings",
    },
}
"""What a room may import of its own package; what it may of others, `test_layout.py` says."""

FRONT_DOOR = "emsmine/__init__.py"
"""It names everything of the interface for type checkers, and imports nothing until it is used."""

LAZY = {
    # A command loads what it needs when it is called.
    "pipelines/cli": {"pipelines/bootstrap", "pipelines/planning", "pipelines/progress", "pipelines/store"},
    # Only remote files need it.
    "pipelines/store": {"pipelines/readers"},
}
"""What a room may import beside that, inside functions only."""

SAME = {
    "dedup": "dropping what is there twice",
    "embed": "the command embed",
    "explain": "why a pair has its score",
    "earlier": "what an earlier run has",
    "files": "how files are read and written",
    "langid": "language identification",
    "mine": "the command mine",
    "neighbours": "lists of nearest neighbours",
    "pairs": "pairs of sentences to train on",
    "parquet": "Parquet files",
    "plan": "the command plan",
    "progress": "how far work has come",
    "report": "what is told at the end",
    "run": "running something from its start to its end",
    "score": "the command score",
    "search": "searching for neighbours",
    "settings": "what something is told",
    "tokenizer": "the tokeniser of a model",
}
"""Names that several files have, each with the one thing that it means everywhere."""


def module_of(path: str) -> str:
    """Return `emsmine.mining.neighbours` for `mining/neighbours.py`, the package for its `__init__.py`."""
    parts = path.removesuffix(".py").split("/")
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts if parts[0] == "emsmine" else ["emsmine", *parts])


def room_of(path: str) -> str:
    """Return the room of a file."""
    folder, _, name = path.rpartition("/")
    return f"{folder}/{name.removesuffix('.py')}" if folder in PACKAGES and name != "__init__.py" else folder


def imports(source: str, *, lazy: bool) -> Iterator[tuple[int, str, str]]:
    """Yield line, module and name of every `from … import`, either of those inside functions or of the others."""

    def visit(node: ast.AST, inside: bool) -> Iterator[tuple[int, str, str]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ImportFrom) and child.module and inside == lazy:
                yield from ((child.lineno, child.module, alias.name) for alias in child.names)
            elif isinstance(child, ast.Import) and inside == lazy:
                yield from ((child.lineno, alias.name, "") for alias in child.names)
            yield from visit(child, inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    return visit(ast.parse(source), False)


def edges(sources: Mapping[str, str], *, lazy: bool = False) -> Iterator[tuple[str, int, str]]:
    """Yield (file, line, imported file) for everything of ours."""
    files = {module_of(path): path for path in sources}
    for path, source in sources.items():
        if path == FRONT_DOOR:
            continue
        for line, module, name in imports(source, lazy=lazy):
            found = files.get(f"{module}.{name}") or files.get(module)
            if found and found != path:
                yield path, line, found


def wrong_arrows(sources: Mapping[str, str]) -> list[str]:
    """List the imports between rooms of a package that the tables do not draw."""
    found = []
    for lazy in (False, True):
        for path, line, other in edges(sources, lazy=lazy):
            here, there = room_of(path), room_of(other)
            if path.split("/")[0] != other.split("/")[0] or here == there or here == "emsmine":
                continue
            if there not in ARROWS.get(here, set()) | (LAZY.get(here, set()) if lazy else set()):
                found.append(f"{path}:{line}: {here} imports {there}")
    return found


def circles(graph: Mapping[str, set[str]]) -> list[str]:
    """List the nodes that can be reached from themselves."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = list(graph.get(start, ()))
        while waiting:
            node = waiting.pop()
            if node not in seen:
                seen.add(node)
                waiting += graph.get(node, ())
        return seen

    return sorted(node for node in graph if node in reached(node))


def graph_of(sources: Mapping[str, str], *, rooms: bool) -> dict[str, set[str]]:
    """Return who imports whom when it is loaded: files, or rooms."""
    graph: dict[str, set[str]] = defaultdict(set)
    for path, _, other in edges(sources):
        here, there = (room_of(path), room_of(other)) if rooms else (path, other)
        if here != there:
            graph[here].add(there)
    return dict(graph)


def doubled(sources: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the names that several files have."""
    places = defaultdict(list)
    for path in sources:
        if not path.endswith("__init__.py"):
            places[path.rpartition("/")[2].removesuffix(".py")].append(path)
    return {name: found for name, found in places.items() if len(found) > 1}


def detours(sources: Mapping[str, str]) -> list[str]:
    """List what is imported from a module that has it from another one itself; an `__init__.py` may do so."""
    files = {module_of(path): path for path in sources}
    borrowed = {
        path: {
            name: module
            for _, module, name in imports(source, lazy=False)
            if module in files and module != "emsmine" and f"def {name}(" not in source
        }
        for path, source in sources.items()
        if not path.endswith("__init__.py")
    }
    found = []
    for path, source in sources.items():
        for lazy in (False, True):
            for line, module, name in imports(source, lazy=lazy):
                home = borrowed.get(files.get(module, ""), {}).get(name)
                if home and f"{module}.{name}" not in files:
                    found.append(f"{path}:{line}: {name} from {module}, which has it from {home}")
    return found


def test_the_checkers_find_seeded_violations() -> None:
    seeded = {
        "mining/text/a.py": "from emsmine.mining.exact.b import x\n",
        "mining/exact/b.py": "from emsmine.mining.text import a\nfrom emsmine.mining.text.a import x\n",
        "mining/selection/a.py": "def f():\n    from emsmine.mining.exact import b\n",
        "pipelines/store/c.py": "def f():\n    from emsmine.pipelines.readers import read\n",
        "pipelines/readers/read.py": "import emsmine.pipelines.store.c\n",
        "pipelines/d.py": "x = 1\n",
    }
    assert wrong_arrows(seeded) == [
        "mining/text/a.py:1: mining/text imports mining/exact",
        "mining/exact/b.py:1: mining/exact imports mining/text",
        "mining/exact/b.py:2: mining/exact imports mining/text",
        "pipelines/readers/read.py:1: pipelines/readers imports pipelines/store",
        "mining/selection/a.py:2: mining/selection imports mining/exact",
    ]
    assert circles(graph_of(seeded, rooms=False)) == ["mining/exact/b.py", "mining/text/a.py"]
    assert circles(graph_of(seeded, rooms=True)) == ["mining/exact", "mining/text"]
    assert doubled(seeded) == {"a": ["mining/text/a.py", "mining/selection/a.py"]}
    assert detours(seeded) == [
        "mining/text/a.py:1: x from emsmine.mining.exact.b, which has it from emsmine.mining.text.a",
        "mining/exact/b.py:2: x from emsmine.mining.text.a, which has it from emsmine.mining.exact.b",
    ]
    assert room_of("pipelines/d.py") == "pipelines/d"
    assert room_of("pipelines/stages/search/exact.py") == "pipelines/stages/search"


def test_rooms_import_only_as_drawn() -> None:
    assert wrong_arrows(SOURCES) == []


def test_no_arrow_is_drawn_in_vain() -> None:
    for table, lazy in ((ARROWS, False), (LAZY, True)):
        used = {(room_of(path), room_of(other)) for path, _, other in edges(SOURCES, lazy=lazy)}
        drawn = {(here, there) for here, rooms in table.items() for there in rooms}
        assert drawn - used == set()


@pytest.mark.parametrize("rooms", [False, True], ids=["files", "rooms"])
def test_there_is_no_circle(rooms: bool) -> None:
    assert circles(graph_of(SOURCES, rooms=rooms)) == []


def test_a_name_means_one_thing() -> None:
    found = doubled(SOURCES)
    assert set(found) == set(SAME), {name: found.get(name) for name in set(found) ^ set(SAME)}


def test_names_are_imported_from_where_they_are_declared() -> None:
    assert detours(SOURCES) == []
