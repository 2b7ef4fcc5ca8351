"""The sample images that the bundle ships, made from files that registry packages carry and may be passed on.

``chest/`` and ``dicom/`` are copied from ``pydicom-data`` and ``pydicom`` (and one PNG drawn from the chest film),
``phantom/`` is made by `data_prep.synthetic` from the T1 template in ``nilearn``, of patients that no cohort contains.
Where each file comes from and on which terms is in the folder's ``README.md``, which is written by hand.

    python -m data_prep.sample
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import io
import json
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.pixels import apply_voi_lut
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from data_prep.layout import png_bytes, write_atomically
from data_prep.synthetic import FIRST_PATIENT, Lesion, Patient, make_patient
from data_prep.synthetic_images import PhantomSlice, grid_point, slices, to_pixel, volume

DEFAULT_OUTPUT = Path(__file__).resolve().parents[1] / "bundles" / "invad" / "sample"
CHEST = "RG1_J2KI.dcm"  # computed radiograph, MONOCHROME1, JPEG 2000
COPIED = {
    "CT_small.dcm": "ct.dcm",
    "MR_small.dcm": "mr.dcm",
    "MR_small_RLE.dcm": "mr_rle.dcm",
    "MR_small_jp2klossless.dcm": "mr_jpeg2000_lossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm": "mr_jpeg_ls_lossless.dcm",
}
# Patients, counted from FIRST_PATIENT["sample"]: the volume, slices as PNG, and a slice as DICOM.
HEALTHY_VOLUME, HEALTHY, HEALTHY_MR = 3, (4, 7), 9
VOLUME, ABNORMAL, MR = 6, (0, 1, 2), 8
# What a radiologist would not overlook: the larger and stronger half of what a cohort holds.
RADIUS, CONTRAST = (9.0, 14.0), (0.35, 0.5)


def shipped_dicom(name: str) -> Path:
    """Return where the installed ``pydicom`` or ``pydicom-data`` keeps a test file, without network."""
    for package, folder in (("pydicom", "data/test_files"), ("data_store", "data")):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            path = Path(spec.origin).parent / folder / name
            if path.is_file():
                return path
    raise FileNotFoundError(f"{name} is in neither pydicom nor pydicom-data: pip install pydicom-data==1.0.0")


def radiograph(dataset: pydicom.Dataset, longest: int = 512) -> np.ndarray:
    """Draw a DICOM radiograph as a reader sees it: the file's own window, bone bright.

    Args:
        dataset: single-frame grey image.
        longest: longer side of the result in pixels.

    Returns:
        (H, W) uint8, 0 black to 255 white.
    """
    values = apply_voi_lut(dataset.pixel_array, dataset).astype(np.float32)
    values = (values - values.min()) / (values.max() - values.min())
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        values = 1.0 - values
    image = Image.fromarray(np.round(values * 255).astype(np.uint8))
    image.thumbnail((longest, longest), Image.Resampling.BOX)
    return np.asarray(image)


def mr_dicom(patient: Patient, z: float) -> FileDataset:
    """Make an axial MR image of a phantom patient with the geometry of the template.

    Args:
        patient: who is imaged.
        z: height of the slice in RAS mm.

    Returns:
        Dataset ready to be saved: 233 rows, 197 columns of 1 mm, 16 bit, white matter about 900. The same arguments
        give the same identifiers.
    """
    pixels = np.round(np.clip(patient.render(np.array([z]))[0], 0.0, 4.0) * 1000.0).astype(np.uint16)
    right, front = grid_point(0, 0)
    kinds = ("image", "series", "study", "frame")
    uid = [generate_uid(entropy_srcs=["invad phantom", patient.name, str(z), kind]) for kind in kinds]

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = uid[0]
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = MRImageStorage
    dataset.SOPInstanceUID, dataset.SeriesInstanceUID, dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = uid
    dataset.ImageType = ["DERIVED", "PRIMARY", "OTHER"]
    # Not "PHANTOM": a reader that hides folders named after the patient would hide sample/phantom.
    dataset.PatientName, dataset.PatientID = "SYNTHETIC", patient.name
    dataset.PatientBirthDate = dataset.PatientSex = ""
    dataset.StudyDate, dataset.StudyTime = "20000101", "000000"
    dataset.StudyID = dataset.AccessionNumber = dataset.ReferringPhysicianName = ""
    dataset.StudyDescription = "Synthetic T1 phantom, no patient"
    dataset.Manufacturer = "invad_med"
    dataset.Modality, dataset.BodyPartExamined = "MR", "BRAIN"
    dataset.SeriesNumber, dataset.InstanceNumber = 1, 1
    dataset.PositionReferenceIndicator, dataset.PatientPosition = "", "HFS"
    dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = "RM", "NONE", ""
    dataset.MRAcquisitionType = "3D"
    dataset.RepetitionTime = dataset.EchoTime = dataset.EchoTrainLength = None
    dataset.SliceThickness = 2.0
    # LPS: left and back grow, so rows and columns of the display run along the axes and RAS x and y change sign.
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [-right, -front, z]
    dataset.SliceLocation = z
    dataset.PixelSpacing = [1.0, 1.0]
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.WindowCenter, dataset.WindowWidth = 500, 1000
    dataset.PixelData = pixels.astype("<u2").tobytes()
    return dataset


def sample_patient(number: int, lesions: int = 0) -> Patient:
    """Make one of the patients kept for the sample, lesions well visible; no cohort of the default seed contains it."""
    return make_patient(FIRST_PATIENT["sample"] + number, lesions=lesions, radius=RADIUS, contrast=CONTRAST)


def _stated(lesion: Lesion, **place: object) -> dict[str, object]:
    return {
        "centre_ras_mm": [round(v, 2) for v in lesion.centre],
        **place,
        "radius_mm": round(lesion.radius, 2),
        "contrast": round(lesion.contrast, 3),
    }


def _largest(patient: Patient) -> PhantomSlice:
    return max(slices(patient), key=lambda piece: int(piece.mask.sum()))


def _nifti_bytes(image: nibabel.Nifti1Image) -> bytes:
    return gzip.compress(image.to_bytes(), compresslevel=9, mtime=0)


def _save_mr(patient: Patient, z: float, path: Path) -> None:
    buffer = io.BytesIO()
    mr_dicom(patient, z).save_as(buffer, enforce_file_format=True)
    write_atomically(path, buffer.getvalue())


def write_phantom(folder: Path) -> None:
    """Write the phantom's volumes, slices, DICOM files and ``lesions.json``, which states every planted lesion."""
    image, _ = volume(sample_patient(HEALTHY_VOLUME))
    write_atomically(folder / "healthy_t1.nii.gz", _nifti_bytes(image))
    stated: dict[str, list[dict[str, object]]] = {"healthy_t1.nii.gz": []}

    patient = sample_patient(VOLUME, lesions=2)
    image, _ = volume(patient)
    write_atomically(folder / "lesions_t1.nii.gz", _nifti_bytes(image))
    to_voxel = np.linalg.inv(image.affine)
    stated["lesions_t1.nii.gz"] = [
        _stated(k, centre_voxel=[round(float(v), 2) for v in (to_voxel @ [*k.centre, 1.0])[:3]])
        for k in patient.lesions
    ]

    for i, number in enumerate(HEALTHY, 1):
        piece = slices(sample_patient(number))[4 * i - 1]
        write_atomically(folder / f"healthy_{i:02d}.png", png_bytes(piece.image))
        stated[f"healthy_{i:02d}.png"] = []
    for i, number in enumerate(ABNORMAL, 1):
        piece = _largest(sample_patient(number, lesions=2))
        write_atomically(folder / f"lesion_{i:02d}.png", png_bytes(piece.image))
        stated[f"lesion_{i:02d}.png"] = [
            _stated(k, centre_row_column=[round(float(v), 2) for v in to_pixel(k.centre)]) for k in piece.lesions
        ]

    _save_mr(sample_patient(HEALTHY_MR), 10.0, folder / "healthy_mr.dcm")
    stated["healthy_mr.dcm"] = []
    patient = sample_patient(MR, lesions=1)
    (lesion,) = patient.lesions
    _save_mr(patient, round(lesion.centre[2], 1), folder / "lesion_mr.dcm")
    right, front = grid_point(0, 0)
    place = [round(front - lesion.centre[1], 2), round(right - lesion.centre[0], 2)]
    stated["lesion_mr.dcm"] = [_stated(lesion, centre_row_column=place)]

    write_atomically(folder / "lesions.json", (json.dumps(stated, indent=1) + "\n").encode())


def write_sample(output: Path = DEFAULT_OUTPUT) -> Path:
    """Write all sample images below ``output`` (its ``README.md`` stays as it is) and return it."""
    output = Path(output)
    source = shipped_dicom(CHEST)
    write_atomically(output / "chest" / "chest_cr.dcm", source.read_bytes())
    write_atomically(output / "chest" / "chest_cr.png", png_bytes(radiograph(pydicom.dcmread(source))))
    for name, copy in COPIED.items():
        write_atomically(output / "dicom" / copy, shipped_dicom(name).read_bytes())
    write_phantom(output / "phantom")
    return output


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of ``python -m data_prep.sample``."""
    parser = argparse.ArgumentParser(prog="python -m data_prep.sample", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=Path, default=DEFAULT_OUTPUT, metavar="DIR", help="default: the bundle's sample"
    )
    output = write_sample(parser.parse_args(argv).output)
    files = [path for path in output.rglob("*") if path.is_file()]
    print(f"{output}: {len(files)} files, {sum(path.stat().st_size for path in files) / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
