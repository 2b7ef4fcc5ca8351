"""A brain cohort with known lesions, made from one real T1 template and nothing else: no download, no patient data.

The ICBM152 T1 template that the ``nilearn`` package ships (skull-stripped, 1 mm) becomes any number of "patients":

=============  ===================================================================================================
anatomy        small affine (rotation, scale, shift) and two smooth B-spline deformations (60 mm and 20 mm knots)
acquisition    gamma, smooth bias-field shading, Rician noise; background stays 0 as after skull stripping
lesions        ellipsoids with a soft edge, radius 4..14 mm, darker or brighter than the tissue around them
=============  ===================================================================================================

`build` writes slices in BMAD's layout with masks and a ``manifest.csv`` that states every lesion. `volume` gives a
patient as NIfTI with its lesion mask. Points are in the template's world coordinates: RAS, millimetres, so x grows to
the patient's right; images are in display orientation (rows anterior to posterior, columns patient right to left).

    python -m data_prep phantom --output data/phantom
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image
from scipy import ndimage
from tqdm import tqdm

from data_prep.layout import png_bytes, write_atomically

SIZE = 256  # pixels of a written slice, both ways
Z_RANGE = (-10.0, 48.0)  # mm, central axial range: basal ganglia to centrum semiovale
Z_STEP = 2.0  # mm between the slices of a volume
MIN_MASK_PIXELS = 12  # a slice with less lesion than this, but some, is neither normal nor fairly abnormal: left out
FIRST_PATIENT = {"train": 0, "valid": 1000, "test": 2000, "sample": 9000}  # a block each: splits can never share one

# Display grid of one slice in mm: the template's own field of view, 1 mm pixels, first row anterior, first column
# patient right.
_X = np.arange(98.0, -99.0, -1.0)  # 197 columns
_Y = np.arange(98.0, -135.0, -1.0)  # 233 rows
_FIELD = float(len(_Y))  # mm, side of the slice once padded to a square
_TEMPLATE_ORIGIN = np.array([-98.0, -134.0, -72.0])  # mm, centre of voxel (0, 0, 0); 1 mm voxels, RAS
_DOMAIN = np.array([[-110.0, 110.0], [-146.0, 110.0], [-90.0, 90.0]])  # mm, where deformations are defined

MANIFEST_COLUMNS = (
    "split", "class", "name", "patient", "slice", "z_mm",
    "lesion_centre_ras_mm", "lesion_centre_px", "lesion_radius_mm", "lesion_contrast",
)  # fmt: skip


@cache
def template(kind: str = "t1") -> np.ndarray:
    """Load a map of the ICBM152 2009a template from the installed ``nilearn``, without network.

    Args:
        kind: ``t1``, or the probability of grey (``gm``) or white (``wm``) matter.

    Returns:
        (197, 233, 189) float32 in 0..1, axes to the patient's right, front and top (RAS), 1 mm voxels.
    """
    spec = importlib.util.find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("The phantom is made from a template in nilearn: pip install 'invad-med[phantom]'")
    path = Path(spec.origin).parent / "datasets" / "data" / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"
    if not path.is_file():
        raise FileNotFoundError(f"The installed nilearn lacks {path.name}; nilearn >= 0.8.1 ships it")
    data = np.asarray(nibabel.load(path).dataobj, dtype=np.float32) / 255.0  # type: ignore[attr-defined]
    data.setflags(write=False)
    return data


@cache
def _tissue() -> np.ndarray:
    """Probability of grey or white matter, (197, 233, 189) in 0..1."""
    return np.minimum(template("gm") + template("wm"), 1.0)


@cache
def _brain() -> np.ndarray:
    """1 inside the skull-stripped template, ventricles and sulci included."""
    return ndimage.binary_fill_holes(template("t1") > 0).astype(np.float32)


def _look_up(data: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Value of a template map at points (3, ...) in mm, linear, 0 outside."""
    voxels = points - _TEMPLATE_ORIGIN.reshape(3, *[1] * (points.ndim - 1))
    return ndimage.map_coordinates(data, voxels, order=1, mode="constant", cval=0.0)


@dataclass(frozen=True)
class SmoothField:
    """A smooth random vector or scalar field: uniform cubic B-spline with normal coefficients (C, nx, ny, nz)."""

    coefficients: np.ndarray
    spacing: float

    @classmethod
    def draw(cls, rng: np.random.Generator, channels: int, spacing: float, sd: float) -> SmoothField:
        """Draw a field whose values have standard deviation `sd`, with knots every `spacing` mm."""
        counts = [math.ceil((high - low) / spacing) + 4 for low, high in _DOMAIN]
        # Averaged over position the squared weights of a cubic B-spline sum to 151/315 on each axis.
        gain = sd / (151 / 315) ** 1.5
        return cls(gain * rng.standard_normal((channels, *counts)), spacing)

    def _weights(self, axis: int, positions: np.ndarray) -> np.ndarray:
        """B-spline weights (P, n) of the knots of one axis at positions (P,) in mm."""
        knots = np.arange(self.coefficients.shape[axis + 1])
        t = np.abs((positions - _DOMAIN[axis, 0]) / self.spacing + 1.0 - knots[:, None]).T
        return np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, np.where(t < 2, (2 - t) ** 3 / 6, 0.0))

    def on_grid(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Values (C, D, H, W) at every combination of z (D,), y (H,) and x (W,) in mm."""
        wx, wy, wz = (self._weights(axis, p) for axis, p in enumerate((x, y, z)))
        return np.einsum("cijk,wi,hj,dk->cdhw", self.coefficients, wx, wy, wz, optimize=True)

    def at(self, points: np.ndarray) -> np.ndarray:
        """Values (C, P) at scattered points (3, P) in mm."""
        wx, wy, wz = (self._weights(axis, p) for axis, p in enumerate(points))
        partial = np.einsum("cijk,pi->cpjk", self.coefficients, wx)
        return np.einsum("cpj,pj->cp", np.einsum("cpjk,pk->cpj", partial, wz), wy)


@dataclass(frozen=True)
class Lesion:
    """An ellipsoid with two axes in the axial plane and a soft edge.

    Args:
        centre: (x, y, z) in RAS mm.
        radius: geometric mean of the semi-axes, 4..14 mm.
        semi_axes: the three semi-axes in mm; the third is along z.
        angle: of the first semi-axis to x, counter-clockwise seen from above, in radians.
        edge: half width of the soft edge in mm.
        contrast: relative to the tissue in a shell around it: -0.3 is 30 % darker, 0.3 is 30 % brighter.
        level: noise-free intensity that the lesion tends to, (1 + contrast) times that of the shell.
    """

    centre: tuple[float, float, float]
    radius: float
    semi_axes: tuple[float, float, float]
    angle: float
    edge: float
    contrast: float
    level: float = 0.0

    def distance(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Ellipsoidal distance of points in mm (broadcast): 1 on the surface, 0 in the centre."""
        dx, dy, dz = x - self.centre[0], y - self.centre[1], z - self.centre[2]
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        a, b, c = self.semi_axes
        return np.sqrt(((cos * dx + sin * dy) / a) ** 2 + ((cos * dy - sin * dx) / b) ** 2 + (dz / c) ** 2)

    def profile(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Share of lesion in 0..1: 1 within, 0.5 on the surface (the mask's border), 0 beyond the soft edge."""
        t = np.clip(0.5 + (1.0 - self.distance(x, y, z)) * self.radius / (2 * self.edge), 0.0, 1.0)
        return t * t * (3.0 - 2.0 * t)


@dataclass(frozen=True)
class Patient:
    """One synthetic patient: where each point lies in the template, how it was imaged, what was planted.

    Args:
        number: identity; with `seed` it determines everything.
        seed: of the cohort.
        matrix, shift: affine part of patient (mm) to template (mm).
        warps: deformations added to it, in mm.
        shading: bias field, log of the factor.
        gamma: exponent of the contrast change.
        noise: standard deviation of the Rician noise, of a full scale of 1.
        lesions: planted ellipsoids, apart from each other.
    """

    number: int
    seed: int
    matrix: np.ndarray
    shift: np.ndarray
    warps: tuple[SmoothField, ...] = ()
    shading: SmoothField | None = None
    gamma: float = 1.0
    noise: float = 0.0
    lesions: tuple[Lesion, ...] = ()

    @property
    def name(self) -> str:
        """``p`` and four digits."""
        return f"p{self.number:04d}"

    def _to_template(self, points: np.ndarray, displacement: Sequence[np.ndarray]) -> np.ndarray:
        return (
            np.tensordot(self.matrix, points, axes=1)
            + self.shift.reshape(3, *[1] * (points.ndim - 1))
            + sum(displacement)
        )

    def _imaged(self, intensity: np.ndarray, log_shading: np.ndarray | float) -> np.ndarray:
        return np.power(intensity, self.gamma) * np.exp(log_shading)

    def points_in_template(self, points: np.ndarray) -> np.ndarray:
        """Template position (3, P) of scattered patient points (3, P), all in mm."""
        return self._to_template(points, [warp.at(points) for warp in self.warps])

    def anatomy(self, points: np.ndarray) -> np.ndarray:
        """Noise-free intensity without lesions at scattered points (3, P)."""
        shading = self.shading.at(points)[0] if self.shading else 0.0
        return self._imaged(_look_up(template(), self.points_in_template(points)), shading)

    def render(self, z: np.ndarray) -> np.ndarray:
        """Image axial slices at the heights z (D,) in mm.

        Returns:
            (D, 233, 197) float32, 1 mm pixels in display orientation, background 0, white matter about 0.9.
        """
        points = np.stack(np.broadcast_arrays(_X, _Y[:, None], z[:, None, None]))
        inside = self._to_template(points, [warp.on_grid(_X, _Y, z) for warp in self.warps])
        brain = _look_up(_brain(), inside) >= 0.5
        shading = self.shading.on_grid(_X, _Y, z)[0] if self.shading else 0.0
        image = self._imaged(_look_up(template(), inside), shading)
        for lesion in self.lesions:
            # A little of the anatomy shines through, so that a lesion is not a flat disc.
            image += 0.85 * lesion.profile(*points) * (lesion.level - image)
        if self.noise:
            rng = np.random.default_rng([self.seed, self.number, 2])
            real, imaginary = rng.normal(0.0, self.noise, (2, *image.shape))
            image = np.hypot(image + real, imaginary)
        return (image * brain).astype(np.float32)

    def mask(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Whether points in mm (broadcast) lie in a lesion."""
        inside = np.zeros(np.broadcast_shapes(x.shape, y.shape, z.shape), dtype=bool)
        for lesion in self.lesions:
            inside |= lesion.distance(x, y, z) <= 1.0
        return inside


def template_patient() -> Patient:
    """The template itself as a patient: no deformation, no shading, no noise."""
    return Patient(number=-1, seed=0, matrix=np.eye(3), shift=np.zeros(3))


def make_patient(number: int, *, seed: int = 0, lesions: int = 0) -> Patient:
    """Make a patient from its number; the anatomy is the same with and without lesions.

    Args:
        number: identity, >= 0. Splits use separate blocks, see `FIRST_PATIENT`.
        seed: of the cohort.
        lesions: how many to plant.
    """
    rng = np.random.default_rng([seed, number, 0])
    roll, pitch, yaw = np.deg2rad(rng.uniform(-5, 5, 3) * (1.0, 1.0, 0.8))
    matrix = _rotation(roll, pitch, yaw) @ np.diag(rng.uniform(0.96, 1.06, 3))
    patient = Patient(
        number=number,
        seed=seed,
        matrix=matrix,
        shift=rng.uniform(-4, 4, 3),
        warps=(SmoothField.draw(rng, 3, 60.0, sd=3.5), SmoothField.draw(rng, 3, 20.0, sd=1.2)),
        shading=SmoothField.draw(rng, 1, 90.0, sd=rng.uniform(0.02, 0.10)),
        gamma=rng.uniform(0.8, 1.3),
        noise=rng.uniform(0.0, 0.03),
    )
    if not lesions:
        return patient
    planted = _plant(patient, lesions, np.random.default_rng([seed, number, 1]))
    return Patient(**{**patient.__dict__, "lesions": planted})


def _rotation(roll: float, pitch: float, yaw: float) -> np.ndarray:
    (ca, cb, cc), (sa, sb, sc) = np.cos([roll, pitch, yaw]), np.sin([roll, pitch, yaw])
    about_x = np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
    about_y = np.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])
    about_z = np.array([[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def _plant(patient: Patient, count: int, rng: np.random.Generator) -> tuple[Lesion, ...]:
    """Draw lesions by rejection: in tissue, off the surface, apart, and no brighter than the display can show."""
    # Lattice in units of the semi-axes: the lesion itself and a shell around it.
    lattice = np.stack(np.meshgrid(*[np.linspace(-1.7, 1.7, 13)] * 3, indexing="ij")).reshape(3, -1)
    norm = np.linalg.norm(lattice, axis=0)
    lattice, norm = lattice[:, norm <= 1.7], norm[norm <= 1.7]
    core, shell = norm <= 1.0, norm >= 1.25
    # White of the display: 99.5th percentile of the frame is about the 98.5th of the third of it that is brain.
    x, y, z = (rng.uniform(low, high, 20000) for low, high in ((-75, 75), (-115, 85), Z_RANGE))
    slab = np.stack([x, y, z])
    slab = slab[:, _look_up(_brain(), patient.points_in_template(slab)) >= 0.5]
    white = float(np.percentile(patient.anatomy(slab), 98.5))

    planted: list[Lesion] = []
    while len(planted) < count:
        radius = rng.uniform(4.0, 14.0)
        sign = float(rng.choice([-1.0, 1.0]))
        for attempt in range(400):
            if attempt % 80 == 79:
                radius = max(4.0, 0.8 * radius)  # nowhere to put it: try a smaller one
            ratios = rng.uniform(0.8, 1.25, 3)
            a, b, c = radius * ratios / np.prod(ratios) ** (1 / 3)
            lesion = Lesion(
                centre=(rng.uniform(-65, 65), rng.uniform(-100, 65), rng.uniform(Z_RANGE[0] + 2, Z_RANGE[1] - 2)),
                radius=radius,
                semi_axes=(a, b, c),
                angle=rng.uniform(0, math.pi),
                edge=rng.uniform(0.8, 0.35 * radius),
                contrast=sign * rng.uniform(0.18, 0.5),
            )
            cos, sin = math.cos(lesion.angle), math.sin(lesion.angle)
            turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
            points = np.array(lesion.centre)[:, None] + turn @ (lattice * np.array(lesion.semi_axes)[:, None])
            inside = patient.points_in_template(points)
            if _look_up(_brain(), inside[:, norm <= 1.3]).min() < 1.0:
                continue  # touches the surface
            tissue = _look_up(_tissue(), inside)
            if (tissue[core] > 0.5).mean() < 0.85 or (tissue[shell] > 0.5).mean() < 0.5:
                continue  # mostly fluid
            if any(math.dist(lesion.centre, o.centre) < 1.8 * (radius + o.radius) for o in planted):
                continue  # shells would meet
            anatomy = patient.anatomy(points)
            around = anatomy[shell][tissue[shell] > 0.5].mean()
            level = (1.0 + lesion.contrast) * around
            if level > 1.1 * white or sign * (min(level, white) - anatomy[core].mean()) < 0.1 * around:
                continue  # stated, but not to be seen: above the display's white, or anatomy there is as bright or dark
            planted.append(Lesion(**{**lesion.__dict__, "level": float(level)}))
            break
    return tuple(planted)


def to_8bit(volume: np.ndarray) -> np.ndarray:
    """Scale a whole volume from its 0.5..99.5 percentile range to 0..255 uint8."""
    low, high = np.percentile(volume, (0.5, 99.5))
    return np.round(np.clip((volume - low) / (high - low), 0.0, 1.0) * 255.0).astype(np.uint8)


def to_square(image: np.ndarray) -> np.ndarray:
    """Pad an 8-bit slice (233, 197) of 1 mm pixels to a square and resize it, linearly, to (256, 256)."""
    side = (image.shape[0] - image.shape[1]) // 2
    padded = Image.fromarray(np.pad(image, ((0, 0), (side, side))))
    return np.asarray(padded.resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def _square_axes() -> tuple[np.ndarray, np.ndarray]:
    """x (256,) of the columns and y (256,) of the rows of a written slice, in mm."""
    offset = (np.arange(SIZE) + 0.5) * _FIELD / SIZE
    return _X.mean() + _FIELD / 2 - offset, _Y[0] + 0.5 - offset


def grid_point(row: int, column: int) -> tuple[float, float]:
    """(x, y) in RAS mm of a pixel's centre in a slice that `Patient.render` images."""
    return float(_X[column]), float(_Y[row])


def to_pixel(centre: Sequence[float]) -> tuple[float, float]:
    """(row, column) in a written slice, pixel centres at whole numbers, of a point in RAS mm."""
    x, y = _square_axes()
    step = _FIELD / SIZE
    return (y[0] - centre[1]) / step, (x[0] - centre[0]) / step


@dataclass(frozen=True)
class PhantomSlice:
    """A slice as `build` writes it: image and mask (256, 256) uint8 (mask 0 or 255), its number, height, lesions."""

    image: np.ndarray
    mask: np.ndarray
    index: int
    z: float
    lesions: tuple[Lesion, ...]


def slices(patient: Patient, count: int = 12) -> list[PhantomSlice]:
    """Image `count` evenly spaced axial slices of the central range, from a start of the patient's own.

    Slices that a lesion only grazes (fewer than 12 mask pixels, or soft edge without mask) are left out.
    """
    step = (Z_RANGE[1] - Z_RANGE[0]) / count
    heights = Z_RANGE[0] + step * (np.arange(count) + np.random.default_rng([patient.seed, patient.number, 3]).random())
    images = to_8bit(patient.render(heights))
    x, y = _square_axes()
    result = []
    for index, z in enumerate(heights):
        here = np.full(1, z)
        areas = {lesion: (lesion.distance(x, y[:, None], here) <= 1.0).sum() for lesion in patient.lesions}
        grazed = [k for k, n in areas.items() if n < MIN_MASK_PIXELS and k.profile(x, y[:, None], here).max() > 0.05]
        if grazed:
            continue
        mask = patient.mask(x, y[:, None], here).astype(np.uint8) * 255
        found = tuple(lesion for lesion, area in areas.items() if area)
        result.append(PhantomSlice(to_square(images[index]), mask, index, float(z), found))
    return result


def volume(patient: Patient) -> tuple[nibabel.Nifti1Image, nibabel.Nifti1Image]:
    """Image the central range as a volume of 30 slices, 2 mm apart with 1 mm pixels, on the template's grid.

    Returns:
        Image (uint8, white matter about 200) and lesion mask (uint8, 0 or 1), both (197, 233, 30), RAS.
    """
    z = np.arange(Z_RANGE[0], Z_RANGE[1] + Z_STEP / 2, Z_STEP)
    image = np.round(np.clip(patient.render(z) * 220.0, 0, 255)).astype(np.uint8)
    mask = patient.mask(_X, _Y[:, None], z[:, None, None]).astype(np.uint8)
    affine = np.diag([1.0, 1.0, Z_STEP, 1.0])
    affine[:3, 3] = (_X[-1], _Y[-1], z[0])
    made = []
    for data in (image, mask):
        # (z, y falling, x falling) to (x, y, z rising)
        nifti = nibabel.Nifti1Image(np.ascontiguousarray(data[:, ::-1, ::-1].transpose(2, 1, 0)), affine)
        nifti.header.set_xyzt_units("mm")
        nifti.set_sform(affine, "mni")
        nifti.set_qform(affine, "mni")
        made.append(nifti)
    return made[0], made[1]


def _files(row: dict[str, str]) -> list[Path]:
    """Paths, relative to the cohort, of the image and mask of a manifest row."""
    if row["split"] == "train":
        return [Path("train", "good", row["name"])]
    return [Path(row["split"], row["class"], folder, row["name"]) for folder in ("img", "label")]


def read_manifest(cohort: Path) -> list[dict[str, str]]:
    """Rows of a cohort's ``manifest.csv``, empty if there is none; the columns are `MANIFEST_COLUMNS`."""
    path = cohort / "manifest.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def build(
    output: Path,
    *,
    train_patients: int = 24,
    valid_patients: int = 6,
    test_patients: int = 12,
    slices_per_patient: int = 12,
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Write a cohort in BMAD's layout.

    ``train/good/*.png``, ``valid`` and ``test`` with ``good`` and ``Ungood``, each with ``img`` and ``label`` (0 or
    255), and ``manifest.csv``. Every second patient of valid and test carries 2 to 4 lesions; its slices without
    lesion count as good. The same arguments give the same bytes. An earlier cohort in `output` is replaced.

    Args:
        output: folder of the cohort, made if need be.
        train_patients: healthy patients to learn from, 1..1000.
        valid_patients, test_patients: 0..1000 each; no patient is in two splits.
        slices_per_patient: axial slices over the 58 mm of the central range, >= 1.
        seed: of the cohort; another one gives other patients throughout.
        progress: show a bar on standard error.

    Returns:
        The folder.
    """
    counts = {"train": train_patients, "valid": valid_patients, "test": test_patients}
    for split, count in counts.items():
        if not 0 <= count <= 1000:
            raise ValueError(f"{split}_patients must be 0..1000, not {count}")
    if slices_per_patient < 1:
        raise ValueError(f"slices_per_patient must be at least 1, not {slices_per_patient}")

    output = Path(output)
    earlier = {path for row in read_manifest(output) for path in _files(row)}
    todo = [(split, i) for split, count in counts.items() for i in range(count)]
    rows = []
    for split, i in tqdm(todo, desc="phantom", unit="patient", disable=not progress):
        number = FIRST_PATIENT[split] + i
        lesions = 0 if split == "train" or i % 2 else 2 + (i // 2) % 3
        patient = make_patient(number, seed=seed, lesions=lesions)
        for piece in slices(patient, slices_per_patient):
            row = _row(split, patient, piece)
            rows.append(row)
            for path, pixels in zip(_files(row), (piece.image, piece.mask), strict=False):
                write_atomically(output / path, png_bytes(pixels))

    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, MANIFEST_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    for path in sorted(earlier - {path for row in rows for path in _files(row)}):
        (output / path).unlink(missing_ok=True)
    write_atomically(output / "manifest.csv", text.getvalue().encode())
    return output


def _row(split: str, patient: Patient, piece: PhantomSlice) -> dict[str, str]:
    found = piece.lesions
    return {
        "split": split,
        "class": "Ungood" if found else "good",
        "name": f"{patient.name}_{piece.index:02d}.png",
        "patient": patient.name,
        "slice": str(piece.index),
        "z_mm": f"{piece.z:.2f}",
        "lesion_centre_ras_mm": ";".join(" ".join(f"{v:.2f}" for v in k.centre) for k in found),
        "lesion_centre_px": ";".join(" ".join(f"{v:.2f}" for v in to_pixel(k.centre)) for k in found),
        "lesion_radius_mm": ";".join(f"{k.radius:.2f}" for k in found),
        "lesion_contrast": ";".join(f"{k.contrast:+.3f}" for k in found),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the phantom's options to a parser."""
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the cohort")
    parser.add_argument("--train-patients", type=int, default=24, metavar="N", help="healthy (default: %(default)s)")
    parser.add_argument("--valid-patients", type=int, default=6, metavar="N", help="half abnormal (%(default)s)")
    parser.add_argument("--test-patients", type=int, default=12, metavar="N", help="half abnormal (%(default)s)")
    parser.add_argument("--slices-per-patient", type=int, default=12, metavar="N", help="axial slices (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the cohort (default: %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(arguments: argparse.Namespace) -> int:
    """Build the cohort that parsed arguments ask for and say where it is."""
    output = build(
        arguments.output,
        train_patients=arguments.train_patients,
        valid_patients=arguments.valid_patients,
        test_patients=arguments.test_patients,
        slices_per_patient=arguments.slices_per_patient,
        seed=arguments.seed,
        progress=not arguments.quiet,
    )
    rows = read_manifest(output)
    abnormal = sum(row["class"] == "Ungood" for row in rows)
    print(f"{output}: {len(rows)} slices of {len({row['patient'] for row in rows})} patients, {abnormal} with a lesion")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run, for ``python -m data_prep.phantom``; ``python -m data_prep phantom`` does the same."""
    parser = argparse.ArgumentParser(prog="python -m data_prep.phantom", description=__doc__.splitlines()[0])
    add_arguments(parser)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
