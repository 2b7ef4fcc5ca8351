"""Every frame of every object lies where its slice lies, whatever the source, plane by plane."""

import copy
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from dicom_results import LIMIT, make_enhanced_mr, named, result_of
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from invad_med.data.slices import Source
from invad_med.readers.dicom.frames import functional_group
from invad_med.readers.sources import scan
from invad_med.writers.dicom.export import DicomWriter

pytestmark = pytest.mark.filterwarnings("ignore")  # pydicom's files break small rules of the standard
OBJECTS = ("parametric_map", "segmentation", "blending", "report", "secondary_capture", "presentation_state")
FRAMED = ("parametric_map.dcm", "segmentation_binary.dcm", "segmentation_fractional.dcm")


def write(folder, source, maps=None, kinds=OBJECTS):
    outcome = DicomWriter(folder / source.name, kinds)(result_of(source, maps))
    return outcome, {p.name: pydicom.dcmread(p) for p in outcome.written}


def series(folder, count=6, change=lambda k: {}):
    """Write an oblique CT series with other elements for each slice and return its one source."""
    folder.mkdir()
    base = pydicom.dcmread(named("CT_small.dcm"))
    base.SeriesInstanceUID = generate_uid()
    for k in range(count):
        ds = copy.deepcopy(base)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.ImageOrientationPatient, ds.ImagePositionPatient = [1, 0, 0, 0, -1, 0], [-100, 90, -5.0 * k]
        ds.PixelSpacing, ds.SliceThickness, ds.InstanceNumber = [0.7, 0.9], 5, count - k
        for keyword, value in change(k).items():
            setattr(ds, keyword, value)
        ds.save_as(folder / f"{k}.dcm")
    (source,) = scan(folder).sources
    return source


def geometry(ds, frame):
    """Return position, orientation, spacing and thickness that an object gives one of its frames."""
    measures = functional_group(ds, frame, "PixelMeasuresSequence")
    return (
        *functional_group(ds, frame, "PlanePositionSequence").ImagePositionPatient,
        *functional_group(ds, frame, "PlaneOrientationSequence").ImageOrientationPatient,
        *measures.PixelSpacing,
        measures.SliceThickness,
    )


def origin(ds, frame):
    return ds.PerFrameFunctionalGroupsSequence[frame].DerivationImageSequence[0].SourceImageSequence[0]


def check_single_frames(objects, source):
    files = {str(ds.SOPInstanceUID): ds for ds in map(pydicom.dcmread, source.paths)}
    for name in FRAMED:
        ds = objects[name]
        for frame in range(int(ds.NumberOfFrames)):
            image = files[str(origin(ds, frame).ReferencedSOPInstanceUID)]
            meant = (
                *image.ImagePositionPatient,
                *image.ImageOrientationPatient,
                *image.PixelSpacing,
                image.SliceThickness,
            )
            np.testing.assert_allclose(
                np.array(geometry(ds, frame), float), np.array(meant, float), atol=1e-6, err_msg=name
            )


def turned(k):
    angle = 0.03 + (3e-7, -2e-3)[k % 2]
    return dict(ImageOrientationPatient=[np.cos(angle), np.sin(angle), 0, np.sin(angle), -np.cos(angle), 0])


@pytest.mark.parametrize(
    "change",
    [
        lambda k: dict(SliceThickness=4 if k < 3 else 8),
        lambda k: dict(PixelSpacing=[0.7 + 1e-4 * k, 0.9]),
        turned,
        lambda k: dict(ImagePositionPatient=[-100 + 0.3 * k, 90, -5.0 * k - (k > 3)]),
    ],
    ids=["thickness", "spacing", "cosines", "shear and gap"],
)
def test_frames_have_the_geometry_of_their_own_slice(change, tmp_path):
    source = series(tmp_path / "in", change=change)
    outcome, objects = write(tmp_path / "out", source)
    assert outcome.failed == []
    check_single_frames(objects, source)


def test_segmentations_are_ordered_as_the_parametric_map_is(tmp_path):
    source = series(tmp_path / "in")
    maps = np.zeros((6, 128, 128), np.float32)
    for k in (0, 2, 3, 5):
        maps[k, 10 + k : 20 + k, 30:40] = 2 * LIMIT
    _, objects = write(tmp_path / "out", source, maps)
    normal = np.array([0, 0, -1.0])
    along = {}
    for name in FRAMED:
        ds = objects[name]
        along[name] = [normal @ np.array(geometry(ds, f)[:3], float) for f in range(int(ds.NumberOfFrames))]
        assert along[name] == sorted(along[name]), name
        index = [f.FrameContentSequence[0].DimensionIndexValues for f in ds.PerFrameFunctionalGroupsSequence]
        assert [i if isinstance(i, int) else i[-1] for i in index] == list(range(1, len(index) + 1))
    binary = objects["segmentation_binary.dcm"]
    for frame, place in enumerate(along["segmentation_binary.dcm"]):
        rows = np.argwhere(binary.pixel_array[frame].any(axis=1)).ravel()
        assert rows[0] == 10 + along["parametric_map.dcm"].index(place)


def phases(path, spacing=(1.0, 1.0), thickness=(3.0, 3.0)):
    """Write an enhanced MR: three positions at each of two times, which can differ in spacing and thickness."""
    make_enhanced_mr(path)
    ds = pydicom.dcmread(path)
    pixels = ds.pixel_array[:6]
    ds.NumberOfFrames, ds.PixelData = 6, pixels.tobytes()
    ds["PixelData"].VR = "OW"
    del ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    frames = []
    for k in range(3):
        for t in (0, 1):
            frame, place, measures, content = Dataset(), Dataset(), Dataset(), Dataset()
            place.ImagePositionPatient = [0, 0, round(4.0 * (2 - k) * 0.9, 3)]
            measures.PixelSpacing, measures.SliceThickness = [spacing[t]] * 2, thickness[t]
            content.TemporalPositionIndex = t + 1
            frame.PlanePositionSequence, frame.PixelMeasuresSequence = [place], [measures]
            frame.FrameContentSequence = [content]
            frames.append(frame)
    ds.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.PerFrameFunctionalGroupsSequence = frames
    ds.save_as(path)
    return path


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 0.5)])
@pytest.mark.parametrize("thickness", [(3.0, 3.0), (3.0, 2.0)])
def test_objects_over_some_frames_refer_to_those(spacing, thickness, tmp_path):
    path = phases(tmp_path / "in.dcm", spacing, thickness)
    stored = pydicom.dcmread(path)
    sources = scan(path).sources
    assert [s.frames for s in sorted(sources, key=lambda s: s.frames)] == [(4, 2, 0), (5, 3, 1)]
    for source in sources:
        maps = np.zeros((3, 64, 64), np.float32)
        for k in range(3):
            maps[k, 10 + k : 20 + k, 30:40] = 2 * LIMIT
        outcome, objects = write(tmp_path / "out", source, maps)
        assert outcome.failed == []
        for name in FRAMED:
            ds = objects[name]
            numbers = [int(origin(ds, f).ReferencedFrameNumber) - 1 for f in range(3)]
            assert numbers == list(source.frames)
            for frame, number in enumerate(numbers):
                np.testing.assert_allclose(
                    np.array(geometry(ds, frame), float), np.array(geometry(stored, number), float), err_msg=name
                )
        values = np.frombuffer(objects["parametric_map.dcm"].FloatPixelData, "<f4").reshape(3, 64, 64)
        np.testing.assert_array_equal(values, maps)
        meant = [frame + 1 for frame in sorted(source.frames)]
        for name, ds in objects.items():
            said = set()
            for element in ds.iterall():
                if element.keyword == "ReferencedFrameNumber":
                    value = element.value
                    said |= {int(v) for v in ([value] if isinstance(value, int) else value)}
            assert said <= set(meant), name
        state = objects["presentation_state.dcm"].ReferencedSeriesSequence[0].ReferencedImageSequence[0]
        assert [int(n) for n in state.ReferencedFrameNumber] == meant


def test_one_frame_that_was_not_scored_costs_no_object(tmp_path):
    path = make_enhanced_mr(tmp_path / "in.dcm")
    (source,) = scan(path).sources
    result = result_of(source)
    predictions, pieces = (of[:3] + of[5:] for of in (result.predictions, result.pieces))
    some = type(result)(source, predictions, pieces, result.provenance, result.study)
    outcome = DicomWriter(tmp_path / "out", ("parametric_map", "segmentation", "report"))(some)
    assert outcome.failed == []
    ds = next(pydicom.dcmread(p) for p in outcome.written if p.name == "parametric_map.dcm")
    stored = pydicom.dcmread(path)
    for frame in range(8):
        number = int(origin(ds, frame).ReferencedFrameNumber) - 1
        np.testing.assert_allclose(
            np.array(geometry(ds, frame), float), np.array(geometry(stored, number), float), atol=1e-6
        )
        index = [9 - k for k in range(10)].index(number)
        values = np.frombuffer(ds.FloatPixelData, "<f4").reshape(8, 64, 64)
        np.testing.assert_array_equal(values[frame], result.predictions[index].map)


def test_several_frames_at_one_position_are_refused_with_that_reason(tmp_path):
    path = phases(tmp_path / "in.dcm")
    source = Source("dicom", (path,), "case", 6, "MR")  # made by hand: scanning would divide it
    outcome = DicomWriter(tmp_path / "out", ("parametric_map", "segmentation"))(result_of(source))
    assert not outcome.written
    assert {reason for _, reason in outcome.failed} == {
        "several slices or frames lie at one position, which no object can tell apart"
    }


def test_images_that_share_one_sop_instance_uid_are_not_referred_to(tmp_path):
    source = series(tmp_path / "in", 3, lambda k: dict(SOPInstanceUID="1.2.3.4"))
    outcome, objects = write(tmp_path / "out", source)
    assert not objects
    assert {reason for _, reason in outcome.failed} == {
        "several images of the source share one SOP Instance UID, so that no object can refer to any"
    }


def test_an_overlay_is_named_after_its_own_slice(tmp_path):
    source = series(tmp_path / "in", 4)
    result = result_of(source)
    part = replace(result, predictions=result.predictions[1:], pieces=result.pieces[1:])
    outcome = DicomWriter(tmp_path / "out", ("overlay",))(part)
    named_after = {path.name: pydicom.dcmread(path).ImagePositionPatient[2] for path in outcome.written}
    assert named_after == {
        f"overlay_s{k:03d}.dcm": pydicom.dcmread(source.paths[k]).ImagePositionPatient[2] for k in (1, 2, 3)
    }
