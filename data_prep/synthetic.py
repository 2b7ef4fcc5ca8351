"""Synthetic patients: the template deformed and imaged anew, with lesions planted if asked for.

=============  ===================================================================================================
anatomy        small affine (rotation, scale, shift) and two smooth B-spline deformations (60 mm and 20 mm knots)
acquisition    gamma, smooth bias-field shading, Rician noise; background stays 0 as after skull stripping
lesions        ellipsoids with a soft edge, radius 4..14 mm, darker or brighter than the tissue around them
=============  ===================================================================================================

Points are in the template's world coordinates: RAS, millimetres.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from data_prep.smooth_field import SmoothField
from data_prep.template import Z_RANGE, X, Y, brain_mask, look_up, template, tissue_probability

# By split, a block each: splits can never share a patient, nor the bundle's sample images one with a cohort.
FIRST_PATIENT = {"train": 0, "valid": 1000, "test": 2000, "sample": 9000}


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
        return self._imaged(look_up(template(), self.points_in_template(points)), shading)

    def render(self, z: np.ndarray) -> np.ndarray:
        """Image axial slices at the heights z (D,) in mm.

        Returns:
            (D, 233, 197) float32, 1 mm pixels in display orientation, background 0, white matter about 0.9.
        """
        points = np.stack(np.broadcast_arrays(X, Y[:, None], z[:, None, None]))
        inside = self._to_template(points, [warp.on_grid(X, Y, z) for warp in self.warps])
        brain = look_up(brain_mask(), inside) >= 0.5
        shading = self.shading.on_grid(X, Y, z)[0] if self.shading else 0.0
        image = self._imaged(look_up(template(), inside), shading)
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


def make_patient(
    number: int,
    *,
    seed: int = 0,
    lesions: int = 0,
    radius: tuple[float, float] = (4.0, 14.0),
    contrast: tuple[float, float] = (0.18, 0.5),
) -> Patient:
    """Make a patient from its number; the anatomy is the same with and without lesions.

    Args:
        number: identity, >= 0. Splits use separate blocks, see `FIRST_PATIENT`.
        seed: of the cohort.
        lesions: how many to plant.
        radius: least and largest of their radii in mm; where there is no room, one may become smaller.
        contrast: least and largest of their contrasts, either way.
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
    planted = _plant(patient, lesions, np.random.default_rng([seed, number, 1]), radius, contrast)
    return replace(patient, lesions=planted)


def _rotation(roll: float, pitch: float, yaw: float) -> np.ndarray:
    (ca, cb, cc), (sa, sb, sc) = np.cos([roll, pitch, yaw]), np.sin([roll, pitch, yaw])
    about_x = np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
    about_y = np.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])
    about_z = np.array([[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def _plant(
    patient: Patient, count: int, rng: np.random.Generator, radii: tuple[float, float], contrasts: tuple[float, float]
) -> tuple[Lesion, ...]:
    """Draw lesions by rejection: in tissue, off the surface, apart, and no brighter than the display can show."""
    # Lattice in units of the semi-axes: the lesion itself and a shell around it.
    lattice = np.stack(np.meshgrid(*[np.linspace(-1.7, 1.7, 13)] * 3, indexing="ij")).reshape(3, -1)
    norm = np.linalg.norm(lattice, axis=0)
    lattice, norm = lattice[:, norm <= 1.7], norm[norm <= 1.7]
    core, shell = norm <= 1.0, norm >= 1.25
    # White of the display: 99.5th percentile of the frame is about the 98.5th of the third of it that is brain.
    x, y, z = (rng.uniform(low, high, 20000) for low, high in ((-75, 75), (-115, 85), Z_RANGE))
    slab = np.stack([x, y, z])
    slab = slab[:, look_up(brain_mask(), patient.points_in_template(slab)) >= 0.5]
    white = float(np.percentile(patient.anatomy(slab), 98.5))

    planted: list[Lesion] = []
    while len(planted) < count:
        radius = rng.uniform(*radii)
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
                contrast=sign * rng.uniform(*contrasts),
            )
            cos, sin = math.cos(lesion.angle), math.sin(lesion.angle)
            turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
            points = np.array(lesion.centre)[:, None] + turn @ (lattice * np.array(lesion.semi_axes)[:, None])
            inside = patient.points_in_template(points)
            if look_up(brain_mask(), inside[:, norm <= 1.3]).min() < 1.0:
                continue  # touches the surface
            tissue = look_up(tissue_probability(), inside)
            if (tissue[core] > 0.5).mean() < 0.85 or (tissue[shell] > 0.5).mean() < 0.5:
                continue  # mostly fluid
            if any(math.dist(lesion.centre, o.centre) < 1.8 * (radius + o.radius) for o in planted):
                continue  # shells would meet
            anatomy = patient.anatomy(points)
            around = anatomy[shell][tissue[shell] > 0.5].mean()
            level = (1.0 + lesion.contrast) * around
            if level > 1.1 * white or sign * (min(level, white) - anatomy[core].mean()) < 0.1 * around:
                continue  # stated, but not to be seen: above the display's white, or anatomy there is as bright or dark
            planted.append(replace(lesion, level=float(level)))
            break
    return tuple(planted)
