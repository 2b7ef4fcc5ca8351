"""Who imports whom: the rooms of docs/architecture.md, no circle of rooms, no circle of files.

A room is a folder or a file right below ``invad_med``, and ``data_prep``; a folder within one belongs to it. Every
import counts: at the top of a file, in a function, below ``TYPE_CHECKING``, and ``import_module`` of a name that is
written out.
"""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
DOCUMENT = REPOSITORY / "docs" / "architecture.md"

ALLOWED = {
    "addresses": set(),
    "lazy": set(),
    "files": set(),
    "parallel": set(),
    "timesteps": set(),
    "diffusion": {"timesteps"},
    "metrics": set(),
    "bundle": {"files"},
    "options": {"addresses", "bundle"},
    "data": {"files"},
    "readers": {"data", "files"},
    "scoring": {"diffusion", "lazy"},
    "hosts": {"lazy", "networks"},
    "inferers": {"diffusion"},
    "networks": {"diffusion", "files", "lazy"},
    "serving": {"data", "files"},
    "archive": {"addresses", "data", "files", "readers"},
    "writers": {"data", "files", "readers"},
    "detection": {
        "data", "diffusion", "files", "hosts", "inferers", "lazy", "networks", "scoring", "serving", "timesteps",
    },
    "features": {"data", "detection", "diffusion", "files", "networks", "parallel", "readers"},
    "inference": {"archive", "bundle", "data", "detection", "files", "readers", "timesteps", "writers"},
    "node": {"addresses", "archive", "data", "files", "inference", "readers", "writers"},
    "shards": {"addresses", "data", "detection", "files", "inference", "readers", "serving", "writers"},
    "training": {
        "data", "detection", "diffusion", "features", "files", "hosts", "networks", "parallel", "readers", "scoring",
    },
    "evaluation": {
        "data", "detection", "diffusion", "features", "files", "inferers", "metrics", "parallel", "readers", "scoring",
        "writers",
    },
    "tracking": {"addresses", "data", "detection", "evaluation", "files", "inference", "metrics"},
    "data_prep": {"data", "files", "readers"},
}  # fmt: skip
ALLOWED["bench"] = {
    "bundle", "data", "detection", "diffusion", "networks", "readers", "scoring", "serving", "timesteps", "writers",
}  # fmt: skip
ALLOWED["commands"] = set(ALLOWED) - {"data_prep"}


def modules():
    """Return every module: dotted name -> file. A package's name is its ``__init__``."""
    result = {}
    for top in ("invad_med", "data_prep"):
        for path in sorted((REPOSITORY / top).rglob("*.py")):
            parts = path.relative_to(REPOSITORY).with_suffix("").parts
            result[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return result


def imported(source, module, is_package, known):
    """Yield the modules among ``known`` that a source imports; of ``from a import b`` the module b, if it is one."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: len(module.split(".")) - node.level + is_package] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{base}.{a.name}" if f"{base}.{a.name}" in known else base for a in node.names]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            names = [node.args[0].value] if called in ("import_module", "__import__") else []
        yield from (name for name in names if name in known and name != module)


@pytest.fixture(scope="module")
def imports():
    """Every import between two of our modules: (importer, imported)."""
    known = modules()
    return {
        (module, other)
        for module, path in known.items()
        for other in imported(path.read_text(), module, path.name == "__init__.py", known)
    }


def room(module):
    """Name the room of a module; ``invad_med`` itself, which holds the version alone, is none."""
    parts = module.split(".")
    if parts[0] == "data_prep" or len(parts) == 1:
        return None if parts[0] == "invad_med" else parts[0]
    return "commands" if parts[1] == "__main__" else parts[1]


def circle(edges):
    """Return a circle of a graph, if there is one."""
    graph = {}
    for a, b in edges:
        if a != b:
            graph.setdefault(a, set()).add(b)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return " <- ".join(error.args[1])
    return None


def test_every_room_has_a_rule():
    assert {room(m) for m in modules()} - {None} == set(ALLOWED)


def test_no_room_imports_what_it_may_not(imports):
    broken = sorted(
        f"{room(a)} may not import {room(b)}: {a} imports {b}"
        for a, b in imports
        if room(a) != room(b) and room(b) and room(b) not in ALLOWED.get(room(a), {"lazy"})
    )
    assert not broken, "\n".join(broken)


def test_no_circle_of_rooms(imports):
    assert not circle((a, b) for a, others in ALLOWED.items() for b in others)
    assert not circle((room(a), room(b)) for a, b in imports if room(b))


def test_no_circle_of_files(imports):
    assert not circle(imports)


def test_the_document_states_these_rules():
    table = {}
    for line in DOCUMENT.read_text().splitlines():
        if cells := re.match(r"\| `(\w+)` \|.*\| ([^|]+) \|$", line):
            name, others = cells.groups()
            everything = set(ALLOWED) - {"commands", "data_prep"}
            table[name] = everything if others == "every room of the package" else set(re.findall(r"`(\w+)`", others))
            assert table[name] or others == "nothing", line
    assert table == ALLOWED


def test_every_kind_of_import_is_seen():
    source = """
import known.a
from known import b, thing
from known.c import thing
if TYPE_CHECKING:
    from known.d import thing
def function():
    from .e import thing
    from . import f
    from .. import g
    importlib.import_module("known.h")
"""
    known = {"known", *(f"known.{x}" for x in "abcdh"), "known.sub.e", "known.sub.f", "known.g", "known.sub.x"}
    seen = set(imported(source, "known.sub.x", False, known))
    assert seen == known - {"known.sub.x"}
    assert set(imported("from . import x", "known.sub", True, known)) == {"known.sub.x"}


def test_a_circle_is_found():
    assert circle([("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")]) and not circle([("a", "b"), ("a", "a")])
