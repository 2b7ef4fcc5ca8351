"""Where the bundle lies, and its configurations run as its command line would."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def root() -> str:
    """Return the folder of the bundle ``invad``: of a source checkout, else as installed with the package.

    Raises:
        FileNotFoundError: neither is there.
    """
    package = Path(__file__).resolve().parent
    for folder in (package.parent / "bundles" / "invad", package / "bundles" / "invad"):
        if (folder / "configs" / "metadata.json").is_file():
            return str(folder)
    raise FileNotFoundError("the bundle's configs are not installed beside invad_med: give --bundle_root")


def run_config(config: str, given: Mapping[str, Path], overrides: Sequence[str], stdout: int | None = None) -> int:
    """Run one of the bundle's configurations in a process of its own, as its command line would; return the status.

    Args:
        config: name of its file.
        given: paths by key.
        overrides: further words of the command line.
        stdout: descriptor that its standard output goes to; None: this process's own.
    """
    configs = Path(root()) / "configs"
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(configs / config)]
    command += ["--logging_file", str(configs / "logging.conf"), "--meta_file", str(configs / "metadata.json")]
    command += [f"--{key}={_as_word(value)}" for key, value in given.items()]
    return subprocess.run([*command, *overrides], check=False, stdout=stdout).returncode


def _as_word(path: Path) -> str:
    return (
        str(path) if path.is_absolute() or str(path)[0].isalnum() else f"./{path}"
    )  # not $, @, % or quotes of MONAI's
