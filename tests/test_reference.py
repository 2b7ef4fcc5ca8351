"""The API reference builds from the docstrings, and a name that does not exist is an error."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"


@pytest.fixture
def build(tmp_path):
    """Build the reference of some packages; ``dummy`` writes no pages, but resolves every reference of them."""

    def run(packages, builder="dummy", path=()):
        source = tmp_path / "source"
        source.mkdir()
        for name in ("conf.py", "index.rst"):
            shutil.copy(REFERENCE / name, source)
        code = f"import sys; sys.path[:0] = {list(map(str, path))}; from sphinx.cmd.build import main; "
        code += "raise SystemExit(main(sys.argv[1:]))"
        options = ["-W", "--keep-going", "--no-color", "-q", "-D", f"packages={packages}", "-b", builder]
        command = [sys.executable, "-c", code, *options, source, tmp_path / "output"]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True)

    return run


def test_the_whole_reference_builds_without_a_warning(build):
    done = build("invad_med,data_prep")
    assert done.returncode == 0, done.stderr


def test_a_name_that_does_not_exist_is_an_error(build, tmp_path):
    package = tmp_path / "fine_package"
    package.mkdir()
    (package / "__init__.py").write_text(
        '"""Knows `Thing`, `Thing.part`s, `LIMIT`, `numpy.ndarray`, `other` and ``anything``.\n\n'
        '| name | value |\n|---|---|\n| `LIMIT` | **3** |\n"""\n'
        "import pathlib as other\n\nLIMIT = 3\n\n\n"
        'class Thing:\n    """A thing."""\n\n'
        '    def part(self):\n        """See `gone`, `fine_package.gone` and `Thing.gone`."""\n'
    )
    done = build("fine_package", "html", [tmp_path])
    unknown = re.findall(r"Thing\.part:\d+: WARNING: 'any' reference target not found: (\S+)", done.stderr)
    assert done.returncode and unknown == ["gone", "fine_package.gone", "Thing.gone"], done.stderr
    assert done.stderr.count("WARNING") == 3, done.stderr
    page = (tmp_path / "output" / "modules" / "fine_package.html").read_text()
    assert 'href="#fine_package.Thing.part"' in page and "<strong>3</strong>" in page and "<th" in page
