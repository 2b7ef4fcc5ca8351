"""How Sphinx builds the API reference from the docstrings: a page a room, every module, every public name.

In a docstring a name between single backticks is a reference. It may be the name of a module, class or function, its
last part where that is unambiguous, a constant of the same module, a name that a package hands on, or one of a
library's. A name that is none of these is a warning, and with ``-W`` an error.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import invad_med

project = "invad-med"
version = release = invad_med.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]
default_role = "any"
autodoc_default_options = {
    "members": True,
    "undoc-members": True,
    "show-inheritance": True,
    "ignore-module-all": True,  # a name stands where it is defined, not also where it is handed on
}
autodoc_mock_imports = ["ray"]  # an extra that no other command needs
autodoc_use_type_comments = False
napoleon_use_ivar = True  # attributes that a class annotates have one entry
html_theme = "alabaster"
html_theme_options = {"description": invad_med.__doc__, "page_width": "1100px", "fixed_sidebar": True}


def write_pages(app: Sphinx) -> None:
    """Write a page for each room of the packages below ``modules/``."""
    folder = Path(app.srcdir, "modules")
    folder.mkdir(exist_ok=True)
    for path in folder.glob("*.rst"):
        path.unlink()
    for name in app.config.packages:
        pages: dict[str, list[str]] = {}
        for module in _modules(importlib.import_module(name)):
            pages.setdefault(".".join(module.split(".")[:2]) if name == "invad_med" else name, []).append(module)
        for page, modules in pages.items():
            lines = [page, "=" * len(page), ""]
            for module in modules:
                lines += [module, "-" * len(module), ""] * (module != page) + [f".. automodule:: {module}", ""]
            (folder / f"{page.replace('.', '-')}.rst").write_text("\n".join(lines))


def _modules(package: ModuleType) -> list[str]:
    below = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    return [package.__name__, *(m.name for m in below if not m.name.endswith(".__main__"))]


def read_markdown(_app: Sphinx, _what: str, _name: str, _thing: object, _options: Any, lines: list[str]) -> None:
    """Turn what docstrings take from Markdown into reStructuredText: tables, and endings as in ```Slice`s``."""
    rows: list[str] = []
    result: list[str] = []
    for line in [*lines, ""]:
        if line.startswith("|"):
            rows.append(line)
            continue
        if rows:
            result += _table(rows)
            rows = []
        result.append(re.sub(r"(?<![`\w])`([\w.]+)`(?=\w)", r"`\1`\\ ", line))
    lines[:] = result


def _table(rows: list[str]) -> list[str]:
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if not re.fullmatch(r"[|\-: ]+", row)]
    result = [".. list-table::", "   :header-rows: 1", ""]
    for row in cells:
        result += [f"   {'* -' if i == 0 else '  -'} {cell}" for i, cell in enumerate(row)]
    return [*result, ""]


def find_by_import(
    _app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element
) -> nodes.Element | None:
    """Resolve a reference that has no entry of its own: a constant, a name handed on, a library's name."""
    target, module = node["reftarget"], node.get("py:module")
    for name in (f"{module}:{target}", target) if module else (target,):
        try:
            thing = pkgutil.resolve_name(name)
        except (ImportError, AttributeError, ValueError):
            continue
        if isinstance(thing, ModuleType) and not getattr(thing, "__file__", None):
            continue  # any folder imports as a package of that name
        home = f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', '')}"
        entry = env.domains.python_domain.objects.get(home)
        if entry is None:
            return content
        uri = f"{_app.builder.get_relative_uri(node['refdoc'], entry.docname)}#{entry.node_id}"
        return nodes.reference("", "", content, internal=True, refuri=uri)
    return None


def setup(app: Sphinx) -> None:
    """Register the above."""
    app.add_config_value("packages", ["invad_med", "data_prep"], "env")
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", read_markdown, priority=900)
    app.connect("missing-reference", find_by_import)
