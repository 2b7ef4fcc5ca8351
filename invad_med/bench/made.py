"""Made input of any size: the sample's healthy phantom, interpolated between its slices, so that models know it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from invad_med.bundle import root
from invad_med.data.resizing import resize

FOLDER = "phantom"  # its name says which model the images are for
_SAMPLE = Path("sample") / "phantom" / "healthy_t1.nii.gz"
_SHOWN = (0.3, 0.7)  # of the stack: slices that show a head


def made_slice(i: int, count: int, side: int) -> np.ndarray:
    """Return slice ``i`` of ``count``: (side, side) float32 in [0, 1], no two alike."""
    volume = _volume()
    place = (_SHOWN[0] + (_SHOWN[1] - _SHOWN[0]) * i / max(count - 1, 1)) * (len(volume) - 1)
    below = int(place)
    between = volume[below] + (place - below) * (volume[below + 1] - volume[below])
    return resize(between, (side, side))


@cache
def _volume() -> np.ndarray:
    """Return the phantom, slices first: (S, rows, columns) float32 in [0, 1]."""
    image: nibabel.Nifti1Image = nibabel.load(Path(root()) / _SAMPLE)  # type: ignore[assignment]
    values = np.asarray(image.dataobj, np.float32)
    return np.ascontiguousarray(values.T[:, ::-1] / values.max())


def make_series(folder: Path, count: int, side: int = 512) -> Path:
    """Write one MR series of ``count`` slices, ``side`` x ``side``, below ``folder``; return the folder to score.

    Its person is made up. The slices lie 1 mm apart.
    """
    target = folder / FOLDER
    target.mkdir(parents=True)
    study, series, frame = (generate_uid(entropy_srcs=["invad-med bench", str(count), name]) for name in "abc")
    for i in range(count):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = MRImageStorage
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[series, str(i)])
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
        ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Made^Up", "made", "19700101", "O"
        ds.StudyDate, ds.StudyTime, ds.AccessionNumber, ds.StudyID = "20240101", "120000", "", "1"
        ds.ReferringPhysicianName = ds.PositionReferenceIndicator = ds.ScanOptions = ""
        ds.Modality, ds.SeriesNumber, ds.InstanceNumber, ds.Manufacturer = "MR", 1, i + 1, "none"
        ds.ImageType, ds.MRAcquisitionType = ["ORIGINAL", "PRIMARY", "M", "SE"], "2D"
        ds.ScanningSequence, ds.SequenceVariant = "SE", "NONE"
        ds.EchoTime, ds.EchoTrainLength, ds.RepetitionTime = "10", "1", "500"
        ds.PatientPosition, ds.BodyPartExamined = "HFS", "BRAIN"
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [-120, -120, float(i)], [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.SliceThickness, ds.SpacingBetweenSlices = [240 / side, 240 / side], "1", "1"
        ds.Rows = ds.Columns = side
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
        ds.PixelData = (made_slice(i, count, side) * 1500).astype("<u2").tobytes()
        ds.save_as(target / f"{i:05d}.dcm", enforce_file_format=True)
    return folder


def make_files(folder: Path, count: int, side: int = 256) -> Path:
    """Write ``count`` PNG files, ``side`` x ``side``, below ``folder``; return the folder to score."""
    target = folder / FOLDER
    target.mkdir(parents=True)
    for i in range(count):
        pixels = (made_slice(i, count, side) * 255).astype(np.uint8)
        pixels[0, :4] = [i >> shift & 15 for shift in (0, 4, 8, 12)]  # no two files are alike
        Image.fromarray(pixels).save(target / f"{i:05d}.png", compress_level=1)
    return folder
