"""A brain cohort with known lesions, made from one real T1 template and nothing else: no download, no patient data.

The ICBM152 template that ``nilearn`` ships becomes any number of synthetic patients, deformed and imaged anew, each in
one split. Those of train are healthy; every second one of valid and test carries 2 to 4 lesions, darker or brighter
than the tissue around them, and its slices without lesion are good. Slices that a lesion only grazes are left out.

Further columns of ``manifest.csv`` state the slice and its lesions, several of them separated by semicolons:

z_mm                  height of the slice
lesion_centre_ras_mm  x y z: to the right, front and top
lesion_centre_px      row column, pixel centres at whole numbers
lesion_radius_mm      geometric mean of the semi-axes
lesion_contrast       relative to the tissue around: -0.3 is 30 % darker
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from data_prep import cli
from data_prep.layout import Case, Picture, PrepError, Report, build
from data_prep.synthetic import FIRST_PATIENT, make_patient
from data_prep.synthetic_images import MIN_MASK_PIXELS, SIZE, PhantomSlice, slices, to_pixel
from data_prep.template import MAPS, Z_RANGE, template_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this source."""
    cli.add_common(parser, recipes=False, source=False)
    parser.add_argument("--train-patients", type=int, default=24, metavar="N", help="healthy (default: %(default)s)")
    parser.add_argument("--valid-patients", type=int, default=6, metavar="N", help="half abnormal (%(default)s)")
    parser.add_argument("--test-patients", type=int, default=12, metavar="N", help="half abnormal (%(default)s)")
    parser.add_argument("--slices-per-patient", type=int, default=12, metavar="N", help="axial slices (%(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Build what parsed arguments ask for."""
    names = ("train_patients", "valid_patients", "test_patients", "slices_per_patient")
    own = {name: getattr(arguments, name) for name in names}
    return cli.tell(prepare(**own, **cli.common(arguments)), arguments)


def prepare(
    output: Path,
    *,
    train_patients: int = 24,
    valid_patients: int = 6,
    test_patients: int = 12,
    slices_per_patient: int = 12,
    seed: int = 0,
    workers: int = 1,
    progress: bool = True,
) -> Report:
    """Build a phantom cohort.

    Args:
        output: folder of the set.
        train_patients, valid_patients, test_patients: 0..1000 each.
        slices_per_patient: axial slices, evenly over the 58 mm of the central range, >= 1.
        seed: of the cohort, >= 0; another one gives other patients throughout.
        workers, progress: see `data_prep.layout.build`.

    Raises:
        PrepError: a number out of range.
        ModuleNotFoundError, FileNotFoundError: ``nilearn`` or its template is missing.
    """
    counts = {"train": train_patients, "valid": valid_patients, "test": test_patients}
    for split, count in counts.items():
        if not 0 <= count <= 1000:
            raise PrepError(f"{split}_patients must be 0..1000, not {count}")
    if slices_per_patient < 1:
        raise PrepError(f"slices_per_patient must be at least 1, not {slices_per_patient}")
    if seed < 0:
        raise PrepError(f"seed must be at least 0, not {seed}")
    template = {f"icbm152_{kind}": template_file(kind) for kind in MAPS}
    cases = []
    for split, count in counts.items():
        for i in range(count):
            number = FIRST_PATIENT[split] + i
            lesions = 0 if split == "train" or i % 2 else 2 + (i // 2) % 3
            patient = {
                "number": number, "split": split, "lesions": lesions, "seed": seed, "slices": slices_per_patient,
            }  # fmt: skip
            cases.append(Case(f"p{number:04d}", template, _make, patient))
    return build(
        output, cases, dataset="phantom", recipe="phantom",
        parameters={
            "patients": counts, "slices_per_patient": slices_per_patient, "seed": seed,
            "z_range_mm": Z_RANGE, "size": SIZE, "min_mask_pixels": MIN_MASK_PIXELS,
        },
        workers=workers, progress=progress,
    )  # fmt: skip


def _make(case: Case) -> Iterator[Picture]:
    p = case.parameters
    patient = make_patient(p["number"], seed=p["seed"], lesions=p["lesions"])
    for piece in slices(patient, p["slices"]):
        kind = "Ungood" if piece.lesions else "good"
        name = f"{patient.name}_{piece.index:02d}"
        yield Picture(
            p["split"], kind, name, piece.image, piece.mask, patient.name, "icbm152_t1", piece.index,
            (piece.index + 0.5) / p["slices"], facts=_stated(piece),
        )  # fmt: skip


def _stated(piece: PhantomSlice) -> dict[str, str]:
    lesions = piece.lesions
    return {
        "z_mm": f"{piece.z:.2f}",
        "lesion_centre_ras_mm": ";".join(" ".join(f"{v:.2f}" for v in k.centre) for k in lesions),
        "lesion_centre_px": ";".join(" ".join(f"{v:.2f}" for v in to_pixel(k.centre)) for k in lesions),
        "lesion_radius_mm": ";".join(f"{k.radius:.2f}" for k in lesions),
        "lesion_contrast": ";".join(f"{k.contrast:+.3f}" for k in lesions),
    }
