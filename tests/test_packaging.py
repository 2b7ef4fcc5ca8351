"""The package as it is installed: complete, quick to import, quiet."""

import re
import subprocess
import sys
from pathlib import Path

from invad_med.bundle import root

REPOSITORY = Path(__file__).parents[1]


def test_every_package_is_listed():
    text = (REPOSITORY / "pyproject.toml").read_text()
    listed = set(re.findall(r'^  "((?:invad_med|data_prep)[\w.]*)",', text, re.MULTILINE))
    found = {
        ".".join(p.parent.relative_to(REPOSITORY).parts)
        for top in ("invad_med", "data_prep")
        for p in (REPOSITORY / top).rglob("*.py")
    }
    assert listed - {"invad_med.bundles.invad"} == found


def test_importing_is_quick_and_needs_nothing_heavy():
    code = (
        "import sys, invad_med, invad_med.bundle; print([m for m in ('torch', 'monai', 'mlflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout.strip() == "[]" and not done.stderr


def test_the_bundle_is_found():
    assert Path(root()) == REPOSITORY / "bundles" / "invad"
