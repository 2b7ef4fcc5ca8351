"""Where the bundle lies."""

from __future__ import annotations

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
