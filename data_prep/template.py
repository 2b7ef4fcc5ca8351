"""The ICBM152 2009a T1 template that the ``nilearn`` package ships: its maps, and the grid slices of it are shown on.

Points are in its world coordinates: RAS, millimetres, so x grows to the patient's right. Slices are in display
orientation: rows anterior to posterior, columns patient right to left, 1 mm pixels.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

X = np.arange(98.0, -99.0, -1.0)  # mm, of the 197 columns of a slice: the template's own field of view
Y = np.arange(98.0, -135.0, -1.0)  # mm, of its 233 rows
Z_RANGE = (-10.0, 48.0)  # mm, central axial range: basal ganglia to centrum semiovale
MAPS = ("t1", "gm", "wm")  # intensity, probability of grey and of white matter
_ORIGIN = np.array([-98.0, -134.0, -72.0])  # mm, centre of voxel (0, 0, 0); 1 mm voxels, RAS


@cache
def template(kind: str = "t1") -> np.ndarray:
    """Load a map of the ICBM152 2009a template from the installed ``nilearn``, without network.

    Args:
        kind: ``t1``, or the probability of grey (``gm``) or white (``wm``) matter.

    Returns:
        (197, 233, 189) float32 in 0..1, axes to the patient's right, front and top (RAS), 1 mm voxels.
    """
    data = np.asarray(nibabel.load(template_file(kind)).dataobj, dtype=np.float32) / 255.0  # type: ignore[attr-defined]
    data.setflags(write=False)
    return data


def template_file(kind: str) -> Path:
    """Return where the installed ``nilearn`` keeps a map of `MAPS`.

    Raises:
        ModuleNotFoundError: there is no ``nilearn``.
        FileNotFoundError: it is too old to ship the template.
    """
    spec = importlib.util.find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("The phantom is made from a template in nilearn: pip install 'invad-med[phantom]'")
    path = Path(spec.origin).parent / "datasets" / "data" / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"
    if not path.is_file():
        raise FileNotFoundError(f"The installed nilearn lacks {path.name}; nilearn >= 0.8.1 ships it")
    return path


@cache
def tissue_probability() -> np.ndarray:
    """Probability of grey or white matter, (197, 233, 189) in 0..1."""
    return np.minimum(template("gm") + template("wm"), 1.0)


@cache
def brain_mask() -> np.ndarray:
    """1 inside the skull-stripped template, ventricles and sulci included."""
    return ndimage.binary_fill_holes(template("t1") > 0).astype(np.float32)


def look_up(data: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Value of a template map at points (3, ...) in mm, linear, 0 outside."""
    voxels = points - _ORIGIN.reshape(3, *[1] * (points.ndim - 1))
    return ndimage.map_coordinates(data, voxels, order=1, mode="constant", cval=0.0)
