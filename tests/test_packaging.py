"""The package as it is installed: complete, of one version, quick to import, quiet."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import yaml
from hatchling.builders.wheel import WheelBuilder

import invad_med
from invad_med.bundle import root

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel of this checkout."""
    (path,) = WheelBuilder(str(REPOSITORY)).build(
        directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"]
    )
    return Path(path)


def files_below(folder):
    """Name every file of a folder of the checkout, relative to the checkout."""
    return [p for p in (REPOSITORY / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts]


def test_the_wheel_holds_every_file_of_the_packages_and_the_bundle_once(wheel):
    names = Counter(n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n)
    assert max(names.values()) == 1
    expected = {p.relative_to(REPOSITORY).as_posix() for top in ("invad_med", "data_prep") for p in files_below(top)}
    bundle = {p.relative_to(REPOSITORY).as_posix() for p in files_below("bundles/invad")}
    assert set(names) == expected | {f"invad_med/{name}" for name in bundle}
    for name in ("invad_med/py.typed", "invad_med/bundles/invad/models/model.pt", "data_prep/__main__.py"):
        assert name in names


def test_the_wheel_works_without_the_checkout(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = "import invad_med.bundle as b, data_prep; print(b.root()); print(data_prep.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    bundle, preparation = done.stdout.split()
    assert Path(bundle) == tmp_path / "invad_med" / "bundles" / "invad"
    assert Path(preparation) == tmp_path / "data_prep" / "__init__.py"


def test_one_version_everywhere():
    version = invad_med.__version__
    metadata = json.loads((REPOSITORY / "bundles" / "invad" / "configs" / "metadata.json").read_text())
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert metadata["version"] == citation["version"] == version
    assert next(iter(metadata["changelog"])) == version
    headings = re.findall(r"^## \[([\w.]+)\]", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert version in headings[:2] and list(metadata["changelog"]) == [h for h in headings if h != "Unreleased"]
    installed = importlib.metadata.version("invad-med")
    assert installed == version, f"installed is {installed}, this checkout is {version}: run pip install -e . again"


def test_the_hooks_run_what_ci_runs():
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    commands = (REPOSITORY / ".ci" / "run").read_text().splitlines()
    checks = [line for line in commands if line.split(" ")[0] in ("ruff", "mypy")]
    assert [hook["entry"] for hook in hooks] == checks
    assert all(hook["language"] == "system" and not hook["pass_filenames"] for hook in hooks)
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    assert all(f"\n{command}\n" in text for command in checks)


def test_importing_is_quick_and_needs_nothing_heavy():
    code = (
        "import sys, invad_med, invad_med.bundle; print([m for m in ('torch', 'monai', 'mlflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout.strip() == "[]" and not done.stderr


def test_the_bundle_is_found():
    assert Path(root()) == REPOSITORY / "bundles" / "invad"
