"""DICOM series and multi-frame files made for a test: every slice's pixels hold a mark, so that it knows its place."""

import copy
import random

import numpy as np
import pydicom
from dicom_results import named
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage, generate_uid

VARYING = (
    "InstanceNumber", "AcquisitionNumber", "AcquisitionTime", "ContentTime", "EchoTime", "EchoNumbers", "TriggerTime",
)  # fmt: skip


def write_series(folder, slices, seed=0, template="MR_small.dcm"):
    """Write slices (position, mark, elements) of one series under random names; the mark is their pixels' value."""
    base = pydicom.dcmread(named(template))
    base.remove_private_tags()
    base.SeriesInstanceUID, base.Rows, base.Columns = "1.2.3.4", 16, 16
    base.PixelSpacing, base.ImageOrientationPatient, base.SliceThickness = [1, 1], [1, 0, 0, 0, 1, 0], 5
    for keyword in VARYING:
        if keyword in base:
            delattr(base, keyword)
    folder.mkdir(parents=True, exist_ok=True)
    names = random.Random(seed).sample(range(10**6), len(slices))
    for name, (position, mark, elements) in zip(names, slices, strict=True):
        ds = copy.deepcopy(base)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.ImagePositionPatient = [0, 0, position] if np.isscalar(position) else list(position)
        pixels = np.full((16, 16), mark, np.int16)
        pixels[:8] += 1
        ds.PixelData = pixels.tobytes()
        for keyword, value in elements.items():
            setattr(ds, keyword, value)
        ds.save_as(folder / f"{name:06d}")


def item(**elements):
    ds = Dataset()
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


def write_frames(path, frames, sop_class=EnhancedMRImageStorage, modality="MR", pointers=(), shared=None):
    """Write a file of frames (mark, functional groups); the mark is the frame's pixels' value."""
    ds = pydicom.dcmread(named("MR_small.dcm"))
    ds.remove_private_tags()
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = sop_class
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.Modality, ds.Rows, ds.Columns, ds.NumberOfFrames = modality, 16, 16, len(frames)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(ds, keyword)
    ds.SharedFunctionalGroupsSequence = [shared or item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        PixelMeasuresSequence=[item(PixelSpacing=[1, 1], SliceThickness=3)],
    )]  # fmt: skip
    ds.PerFrameFunctionalGroupsSequence = [groups for _, groups in frames]
    if pointers:
        ds.DimensionIndexSequence = [item(DimensionIndexPointer=p) for p in pointers]
    pixels = [np.full((16, 16), mark, np.int16) + np.eye(16, dtype=np.int16) for mark, _ in frames]
    ds.PixelData = np.stack(pixels).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path)
    return path


def at(z, **groups):
    return item(PlanePositionSequence=[item(ImagePositionPatient=[0, 0, z])], **groups)
