"""Sources and results for the DICOM writers: made from pydicom's own files, with geometry known to the test."""

import copy
from pathlib import Path

import numpy as np
import pydicom
from highdicom.sr import CodedConcept
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, generate_uid

from invad_med.data.prediction import ChosenBy, Prediction, Status
from invad_med.data.provenance import Provenance
from invad_med.data.study import Study
from invad_med.readers.sources import scan, whole_source
from invad_med.writers.dicom.common import Result

LIMIT = 6.0
OBLIQUE = np.linalg.qr(np.array([[1.0, 0.3, -0.2], [-0.25, 1.0, 0.4], [0.1, -0.35, 1.0]]))[0].T  # row, column, normal


def named(name):
    return Path(get_testdata_file(name, download=False))


def make_dx(path):
    """Write a small DX that breaks no rule of the standard, and return its path."""
    ds = pydicom.dcmread(named("RG1_UNCI.dcm"))
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    pixels = ds.pixel_array[::8, ::8]
    (ds.Rows, ds.Columns), ds.PixelData = pixels.shape, pixels.tobytes()
    ds.Modality, ds.PresentationIntentType, ds.PresentationLUTShape = "DX", "FOR PRESENTATION", "INVERSE"
    ds.ImageLaterality, ds.BurnedInAnnotation = "U", "NO"
    ds.AnatomicRegionSequence = [CodedConcept("51185008", "SCT", "Chest")]
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", 1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "US"
    ds.PixelSpacing = ds.ImagerPixelSpacing = [1.6, 1.6]
    ds.DetectorType, ds.PositionerType, ds.AcquisitionContextSequence = "DIRECT", "NONE", []
    ds.save_as(path)
    return path


def make_enhanced_mr(path):
    """Write an enhanced MR of ten oblique frames, stored from top to bottom, and return its path."""
    ds = pydicom.dcmread(named("emri_small.dcm"))
    shared, plane, measures = Dataset(), Dataset(), Dataset()
    plane.ImageOrientationPatient = [f"{v:.9f}" for v in (*OBLIQUE[0], *OBLIQUE[1])]
    measures.PixelSpacing, measures.SliceThickness = [0.7, 1.3], 3
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [plane], [measures]
    frames = []
    for k in range(int(ds.NumberOfFrames)):
        frame, place = Dataset(), Dataset()
        place.ImagePositionPatient = [f"{v:.6f}" for v in -3 * k * np.cross(OBLIQUE[0], OBLIQUE[1])]
        frame.PlanePositionSequence = [place]
        frames.append(frame)
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = [shared], frames
    ds.Manufacturer, ds.ManufacturerModelName, ds.DeviceSerialNumber = "none", "none", "0"
    if "FrameOfReferenceUID" not in ds:
        ds.FrameOfReferenceUID = generate_uid()
    ds.save_as(path)
    return path


def result_of(source, maps=None, modality="brain", title="Brain MRI"):
    """Return a result with given maps, or with a square of abnormal pixels in every slice."""
    predictions, pieces = [], whole_source(source)
    for i, piece in enumerate(pieces):
        height, width = piece.pixels.shape[:2]
        if maps is None:
            values = np.random.default_rng(i).random((height, width), dtype=np.float32)
            values[height // 4 : height // 2, width // 3 : width // 2] = 9.0 + i
        else:
            values = maps[i]
        predictions.append(
            Prediction(
                source,
                i,
                Status.SCORED,
                None,
                modality,
                ChosenBy.DICOM,
                values,
                score=1.5 + i,
                p_value=0.03,
                threshold=1.2,
                map_threshold=LIMIT,
                paper_score=33.0,
            )
        )
    provenance = Provenance(title=title, data_digest="cd15", versions={"monai": "1"})
    n = len(pieces)
    study = Study(
        name=source.name, sources=(source,), modality=modality, slices=n, scored=n, above=n, expected_above=0.05 * n,
        false_positive_rate=0.05, first_slice=(source, n - 1), score=3.1, threshold=2.2, p_value=0.02,
    )  # fmt: skip
    return Result(source, tuple(predictions), tuple(pieces), provenance, study)


def make_series(folder, volume, spacing=(0.7, 1.3), step=3.0, shear=0.9, gap_after=2, syntax=None):
    """Write an oblique, sheared, gapped CT series and return (source, to_patient).

    ``to_patient(slice, row, column)`` is the place in mm that the header of the slice gives.
    """
    folder.mkdir(parents=True)
    template = pydicom.dcmread(named("CT_small.dcm"))
    template.SeriesInstanceUID = generate_uid()
    row, column, normal = OBLIQUE[0], OBLIQUE[1], np.cross(OBLIQUE[0], OBLIQUE[1])
    places = []
    for k, pixels in enumerate(volume):
        distance = step * k + (2 * step if k > gap_after else 0.0)
        places.append(np.array([-31.0, 17.5, 8.25]) + distance * (normal + shear / step * column))
        ds = copy.deepcopy(template)
        ds.Rows, ds.Columns = pixels.shape
        ds.PixelData = pixels.astype(np.int16).tobytes()
        ds.PixelSpacing = list(spacing)
        ds.ImageOrientationPatient = [f"{v:.9f}" for v in (*row, *column)]
        ds.ImagePositionPatient = [f"{v:.9f}" for v in places[-1]]
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.InstanceNumber = (k * 3) % len(volume) + 1  # not the spatial order
        if syntax:
            ds.compress(syntax, generate_instance_uid=False)
        ds.save_as(folder / f"{(k * 3) % len(volume)}.dcm")
    (source,) = scan(folder).sources

    def to_patient(k, r, c):
        return places[k] + spacing[0] * r * column + spacing[1] * c * row

    return source, to_patient


def make_abdomen(folder, slices=12, step=2.5):
    """Write an axial CT study that breaks no rule of the standard, and return its source.

    Every slice shows the one of Pancreas-CT (The Cancer Imaging Archive, CC BY 3.0) that pydicom-data holds.
    """
    folder.mkdir(parents=True)
    ds = pydicom.dcmread(named("explicit_VR-UN.dcm"))
    ds.decompress(generate_instance_uid=False)
    ds.remove_private_tags()
    ds.PixelData = np.ascontiguousarray(np.flipud(ds.pixel_array)).tobytes()  # stored with the back uppermost
    ds["PixelData"].VR = "OW"
    ds.ImageOrientationPatient, ds.SliceThickness, ds.PatientPosition = [1, 0, 0, 0, 1, 0], step, "HFS"
    ds.WindowCenter, ds.WindowWidth, ds.RescaleType = 40, 400, "HU"
    ds.BodyPartExamined, ds.SeriesDescription, ds.SeriesNumber, ds.AcquisitionNumber = "ABDOMEN", "Source CT", 2, 1
    ds.KVP, ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = 120, *(generate_uid() for _ in range(3))
    del ds.ConversionType, ds.ContrastBolusAgent
    for k in range(slices):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.ImagePositionPatient, ds.InstanceNumber = [-220, -220, step * k], k + 1
        ds.save_as(folder / f"{k:02d}.dcm")
    (source,) = scan(folder).sources
    return source


def bump(shape, centre, radius):
    """Return a map (N, H, W) of one smooth bump: 1.8 times `LIMIT` at its centre, 0 from ``radius`` (3 numbers) on."""
    axes = [(np.arange(n) - c) / r for n, c, r in zip(shape, centre, radius, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return (1.8 * LIMIT * np.clip(1 - z**2 - y**2 - x**2, 0, None)).astype(np.float32)
