"""What the documents say exists: links, headings, files, Python names, modules that are run, examples."""

import ast
import importlib.util
import pkgutil
import re
import unicodedata
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path.relative_to(REPOSITORY)
    for pattern in ("*.md", "docs/*.md", "bundles/invad/**/*.md")
    for path in REPOSITORY.glob(pattern)
)
HISTORY = Path("CHANGELOG.md")  # names what is no more

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=str)


def prose(document):
    """Return a document without its blocks of code."""
    return re.sub(r"^```.*?^```", "", (REPOSITORY / document).read_text(), flags=re.MULTILINE | re.DOTALL)


def blocks(document, language):
    """Return a document's blocks of code in one language."""
    text = (REPOSITORY / document).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def anchors(document):
    """Return the anchors of a document's headings, as GitHub and GitLab make them."""
    result = set()
    for heading in re.findall(r"^#+ +(.*?)\s*$", prose(document), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        kept = "".join(c for c in text if c in " -_" or unicodedata.category(c)[0] in "LN")
        slug = kept.replace(" ", "-")
        result.add(slug if slug not in result else f"{slug}-{sum(a.startswith(slug) for a in result)}")
    return result


def links(document):
    """Return the links of a document that stay in the repository: (path or nothing, anchor or nothing)."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(document))
    return [tuple((*target.split("#"), "")[:2]) for target in targets if not re.match(r"[a-z]+:", target)]


def broken_links(document):
    """Return the links of a document that lead nowhere."""
    result = []
    for path, anchor in links(document):
        target = (REPOSITORY / document).parent / path if path else REPOSITORY / document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            result.append(f"{path}#{anchor}" if anchor else path)
    return result


def named(document, pattern):
    """Return what a document names in backticks or in code that matches a pattern."""
    spans = re.findall(r"`([^`\n]+)`", prose(document)) + blocks(document, "sh") + blocks(document, "python")
    return sorted({match for span in spans for match in re.findall(pattern, span)})


@each_document
def test_links_lead_somewhere(document):
    assert not broken_links(document)


@each_document
def test_files_that_are_named_exist(document):
    paths = named(document, r"(?<![\w./])(?:invad_med|data_prep|bundles|docs|tests|\.ci)/[\w./-]*\w")
    missing = [path for path in paths if not (REPOSITORY / path).exists()]
    assert document == HISTORY or not missing


@each_document
def test_python_names_exist(document):
    missing = []
    for name in named(document, r"(?<![\w./])(?:invad_med|data_prep)(?:\.\w+)+(?![\w/])"):
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError):
            missing.append(name)
    assert document == HISTORY or not missing


@each_document
def test_modules_that_are_run_exist(document):
    text = (REPOSITORY / document).read_text()
    modules = set(re.findall(r"python -m\s+((?:invad_med|data_prep|pytest|sphinx|monai)\b(?:\.\w+)*)", text))
    missing = [m for m in modules if not importlib.util.find_spec(m)]
    packages = [m for m in modules - set(missing) if importlib.util.find_spec(m).submodule_search_locations is not None]
    missing += [m for m in packages if not importlib.util.find_spec(f"{m}.__main__")]
    assert not missing


@each_document
def test_examples_import_what_exists(document):
    for block in blocks(document, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    pkgutil.resolve_name(f"{node.module}:{alias.name}")


def test_a_broken_link_is_found(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "REPOSITORY", tmp_path)
    (tmp_path / "other.md").write_text("# One `thing`, two (2)\n\n## Same\n\n## Same\n")
    (tmp_path / "a.md").write_text(
        "[a](other.md#one-thing-two-2) [b](other.md#same-1) [c](other.md#same-2) [d](gone.md) [e](#gone)\n"
        "[f](https://example.org/gone)\n\n```sh\n[g](gone.md)\n```\n"
    )
    assert broken_links(Path("a.md")) == ["other.md#same-2", "gone.md", "#gone"]
