"""A build of this package: an interpreter and a source tree, and the commands that it offers."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import invad_med

_IMPORT = "try:\n from invad_med import load\nexcept ImportError:\n from invad_med.bundle import load"
_MODEL = "phantom"


@dataclass(frozen=True)
class Build:
    """An interpreter and a source tree.

    Args:
        name: ``this`` or ``former``.
        python: the interpreter; its environment has what the build needs.
        tree: folder that holds ``invad_med``.

    Raises:
        FileNotFoundError: one of them is not there.
    """

    name: str
    python: Path
    tree: Path

    def __post_init__(self) -> None:
        if not self.python.is_file():
            raise FileNotFoundError(f"{self.python} is no interpreter: give --former PYTHON TREE")
        if not (self.tree / "invad_med" / "__init__.py").is_file():
            raise FileNotFoundError(f"{self.tree} holds no invad_med: give --former PYTHON TREE, TREE being a checkout")

    @property
    def offers_score(self) -> bool:
        """Whether it has ``python -m invad_med score``."""
        return (self.tree / "invad_med" / "commands" / "score.py").is_file()

    @property
    def bundle(self) -> Path:
        """Folder of the bundle, of a checkout or an installed package."""
        package = self.tree / "invad_med" / "bundles" / "invad"
        return package if package.is_dir() else self.tree / "bundles" / "invad"

    def environment(self, threads: int | None) -> dict[str, str]:
        """Return the environment of its commands; ``threads``: OMP_NUM_THREADS, not set if None."""
        values = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        values |= {"PYTHONPATH": str(self.tree), "LOGLEVEL": "WARNING"}
        return values if threads is None else values | {"OMP_NUM_THREADS": str(threads)}

    def importing(self) -> list[str]:
        """Return the command that imports ``load``."""
        return [str(self.python), "-c", _IMPORT]

    def loading(self) -> list[str]:
        """Return the command that loads one model, as three lines of Python do."""
        return [str(self.python), "-c", f"{_IMPORT}\nload('{_MODEL}')"]

    def main(self, output: Path, dataset: Path | None = None) -> list[str]:
        """Return the bundle's command; without ``dataset`` on the bundle's sample."""
        config = self.bundle / "configs" / "inference.json"
        command = [str(self.python), "-m", "monai.bundle", "run", "--config_file", str(config)]
        return [*command, *([] if dataset is None else ["--dataset_dir", str(dataset)]), "--output_dir", str(output)]

    def score(self, output: Path, dataset: Path | None = None) -> list[str]:
        """Return the fastest command that writes the results: ``score`` where it is offered, else `main`."""
        if not self.offers_score:
            return self.main(output, dataset)
        command = [str(self.python), "-m", "invad_med", "score", *([] if dataset is None else [str(dataset)])]
        return [*command, "--output_dir", str(output)]


def this_build() -> Build:
    """Return the build that runs."""
    return Build("this", Path(sys.executable), Path(invad_med.__file__).parents[1])
