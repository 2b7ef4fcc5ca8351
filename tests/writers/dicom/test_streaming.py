"""A source's objects slice by slice: none is held, none grows faster than it must, and what is read back is checked."""

import gc
import io
import weakref
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from dicom_results import LIMIT, make_series, named, result_of
from pydicom.sr.codedict import codes
from pydicom.uid import MultiFrameGrayscaleWordSecondaryCaptureImageStorage

from invad_med.data.prediction import Prediction
from invad_med.readers.sources import read_slice, scan, whole_source
from invad_med.writers.dicom.bits import packed
from invad_med.writers.dicom.common import Pixels
from invad_med.writers.dicom.evidence import Refused
from invad_med.writers.dicom.export import KINDS, DicomWriter
from invad_med.writers.dicom.report import MOST_SLICES

pytestmark = pytest.mark.filterwarnings("ignore")
DEFAULT = ("overlay", "parametric_map", "report")


def series(folder, count, shape=(20, 24)):
    volume = np.random.default_rng(0).integers(0, 2000, (count, *shape))
    return make_series(folder, volume, gap_after=count)[0]


def sizes(folder, count):
    outcome = DicomWriter(folder / "out", KINDS)(result_of(series(folder / "in", count)))
    assert outcome.failed == []
    return {path.name: path.stat().st_size for path in outcome.written}


def test_no_object_grows_faster_than_the_slices_and_an_overlay_not_at_all(tmp_path):
    few, more, many = (sizes(tmp_path / str(count), count) for count in (2, 4, 8))
    names = {name for name in few if not name.startswith("overlay")}
    assert len(names) == 7
    overlays = {size for found in (few, more, many) for name, size in found.items() if name not in names}
    assert max(overlays) - min(overlays) < 40  # places have more or fewer digits
    for name in names:
        steps = (more[name] - few[name]) / 2, (many[name] - more[name]) / 4
        assert 0 < steps[1] < 1.02 * steps[0] + 8, name
    (image,) = pydicom.dcmread(next((tmp_path / "8").rglob("overlay_s005.dcm"))).SourceImageSequence
    assert image.ReferencedSOPInstanceUID == scanned(tmp_path / "8" / "in", 5).SOPInstanceUID


def scanned(folder, index):
    (source,) = scan(folder).sources
    return pydicom.dcmread(source.paths[index])


class Asked(Prediction):
    """A prediction that counts how often it is asked for its map."""

    def __getattribute__(self, name):
        if name == "map":
            times[self.index] = times.get(self.index, 0) + 1
        return super().__getattribute__(name)


times: dict[int, int] = {}


@pytest.mark.parametrize("kinds", [DEFAULT, KINDS])
def test_of_slices_that_were_added_no_pixels_are_held_and_one_map(kinds, tmp_path):
    source = series(tmp_path / "in", 5)
    whole = result_of(source)
    job = DicomWriter(tmp_path / "out", kinds, deterministic_uids=True).begin(source, whole.provenance)
    maps, pixels = [], []
    times.clear()
    for i, prediction in enumerate(whole.predictions):
        values = np.full((20, 24), 1.0 + (i * 3) % 5, np.float32)
        piece = read_slice(source, i)
        said = {name: getattr(prediction, name) for name in Prediction.__dataclass_fields__}
        job.add(Asked(**said | {"map": values}), piece)
        maps.append(weakref.ref(values))
        pixels.append(weakref.ref(piece.pixels))
        del values, piece, said
    gc.collect()
    assert sum(ref() is not None for ref in pixels) == 0
    assert sum(ref() is not None for ref in maps) == 1
    assert kinds is KINDS or set(times.values()) == {1}  # the drawing of a capture asks too
    outcome = job.finish(whole.study)
    assert outcome.failed == []
    ds = pydicom.dcmread(next(path for path in outcome.written if path.name == "parametric_map.dcm"))
    found = np.frombuffer(ds.FloatPixelData, "<f4").reshape(5, 20, 24)
    assert [float(frame[0, 0]) for frame in found] == [1.0 + (i * 3) % 5 for i in range(5)]


@pytest.mark.parametrize("kinds", [DEFAULT, KINDS])
def test_a_job_that_is_left_before_its_end_leaves_no_file(kinds, tmp_path):
    source = series(tmp_path / "in", 4)
    whole = result_of(source)
    with DicomWriter(tmp_path / "out", kinds).begin(source, whole.provenance) as job:
        job.add(whole.predictions[0], whole.pieces[0])
        assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()]  # an overlay, without its name
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_of_a_source_without_a_scored_slice_nothing_is_written(tmp_path):
    source = series(tmp_path / "in", 4)
    whole = result_of(source)
    outcome = DicomWriter(tmp_path / "out", KINDS).begin(source, whole.provenance).finish(whole.study)
    assert (outcome.written, outcome.failed) == ([], []) and not (tmp_path / "out").exists()


class Lying(io.FileIO):
    """A file on a disk that changes the last byte of what is written."""

    def write(self, data):
        content = bytes(data)
        return super().write(content[:-1] + bytes([content[-1] ^ 1])) if content else 0


def test_what_is_not_read_back_as_it_was_written_is_not_put_in_place(tmp_path, monkeypatch):
    source = series(tmp_path / "in", 4, (21, 24))
    result = result_of(source)

    def lying(self, mode="r", *rest, **others):
        return Lying(self, mode) if "w" in mode else open(self, mode, *rest, **others)

    monkeypatch.setattr(Path, "open", lying)
    outcome = DicomWriter(tmp_path / "out", KINDS)(result)
    assert not outcome.written and not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert dict(outcome.failed) == dict.fromkeys(KINDS, "the object read back differs from the one that was meant")


def test_pixels_that_no_element_can_hold_are_refused():
    with pytest.raises(
        Refused, match="its pixels would take 4294967296 bytes, and an element holds 4294967294 at most"
    ):
        next(Pixels("FloatPixelData", "OF", 2**32, list).encoded())


@pytest.mark.parametrize("shape", [(5, 7), (4, 4), (3, 1)])
def test_bits_of_frames_follow_one_another_within_a_byte(shape):
    regions = np.random.default_rng(0).random((5, *shape)) > 0.5
    assert b"".join(packed(iter(regions))) == np.packbits(regions.ravel(), bitorder="little").tobytes()


def test_a_segmentation_of_frames_that_end_within_a_byte_shows_every_region(tmp_path):
    source = series(tmp_path / "in", 4, (21, 25))
    maps = np.random.default_rng(1).random((4, 21, 25), dtype=np.float32) * 2 * LIMIT
    outcome = DicomWriter(tmp_path / "out", ["segmentation"])(result_of(source, maps))
    binary = next(pydicom.dcmread(path) for path in outcome.written if "binary" in path.name)
    np.testing.assert_array_equal(binary.pixel_array, maps > LIMIT)


def test_the_overlay_of_a_file_of_several_frames_covers_each(tmp_path):
    ds = pydicom.dcmread(named("CT_small.dcm"))
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = MultiFrameGrayscaleWordSecondaryCaptureImageStorage
    ds.NumberOfFrames, ds.PixelData = 3, 3 * ds.PixelData
    ds.save_as(tmp_path / "x.dcm")
    (source,) = scan(tmp_path / "x.dcm").sources
    maps = np.random.default_rng(1).random((3, 128, 128), dtype=np.float32) * 2 * LIMIT
    outcome = DicomWriter(tmp_path / "out", ["overlay"])(result_of(source, maps))
    assert outcome.failed == []
    (copy,) = (pydicom.dcmread(path) for path in outcome.written)
    np.testing.assert_array_equal(copy.overlay_array(0x6000), maps > LIMIT)
    assert copy.PixelData == ds.PixelData and len(copy.SourceImageSequence) == 1


@pytest.fixture(scope="module")
def forty(tmp_path_factory):
    """A result of 40 slices."""
    return result_of(series(tmp_path_factory.mktemp("forty") / "in", 40, (16, 16)))


def report(folder, whole, change):
    """Return the slices that the report lists, by highdicom, and the words of its first group."""
    predictions = tuple(change(i, prediction) for i, prediction in enumerate(whole.predictions))
    outcome = DicomWriter(folder, ["report"])(replace(whole, predictions=predictions))
    assert outcome.failed == []
    ds = hd.sr.ComprehensiveSR.from_dataset(pydicom.dcmread(outcome.written[0]))
    content = hd.sr.MeasurementReport.from_sequence([ds.content[0]])
    study, *slices = content.get_image_measurement_groups()
    (comment,) = (item.value for item in study[0].ContentSequence if item.name == codes.DCM.Comment)
    assert len(study.source_images) == 40 and len(content.get_planar_roi_measurement_groups()) == 1
    return [group.tracking_identifier for group in slices], comment


def test_a_report_lists_the_highest_slices_above_threshold_and_says_so(forty, tmp_path):
    def ranked(i, prediction):
        return replace(prediction, p_value=None, score=5.0 - 0.1 * i if i < 36 else 1.0)

    listed, words = report(tmp_path, forty, ranked)
    assert listed == [f"slice {i}" for i in range(MOST_SLICES)] and MOST_SLICES == 32
    assert words.endswith("Listed: the 32 highest of 36 slices above threshold, of 40 scored.")


def test_a_report_on_few_slices_above_threshold_lists_these(forty, tmp_path):
    listed, words = report(tmp_path, forty, lambda i, p: replace(p, score=3.0 if i in (7, 3) else 1.0, p_value=0.1 + i))
    assert listed == ["slice 3", "slice 7"]
    assert words.endswith("Listed: 2 slices above threshold, of 40 scored.")


def test_a_report_on_slices_that_are_not_above_threshold_lists_none(forty, tmp_path):
    listed, words = report(tmp_path, forty, lambda i, p: replace(p, score=1.0))
    assert listed == [] and words.endswith("No slice is listed, as none is above threshold.")


def test_a_report_on_slices_without_threshold_lists_the_highest(forty, tmp_path):
    def withheld(i, prediction):
        return replace(prediction, score=None, threshold=None, p_value=None, paper_score=float(i))

    listed, words = report(tmp_path, forty, withheld)
    assert listed == [f"slice {i}" for i in range(39, 7, -1)]
    assert words.endswith("Listed: the 32 highest of 40 scored, which have no threshold.")


def test_a_source_is_read_once_for_all_slices(tmp_path):
    source = series(tmp_path / "in", 4)
    result, pieces = result_of(source), whole_source(source)
    for path in source.paths:
        path.unlink()
    outcome = DicomWriter(tmp_path / "out", KINDS)(replace(result, pieces=tuple(pieces)))
    assert outcome.failed == []


def test_slices_of_another_size_are_refused(tmp_path):
    source = series(tmp_path / "in", 4)
    maps = [np.zeros((20, 24), np.float32)] * 3 + [np.zeros((20, 22), np.float32)]
    outcome = DicomWriter(tmp_path / "out", KINDS)(result_of(source, maps))
    reason = "slices of the source differ in size, so that no object can hold them all"
    assert not outcome.written and dict(outcome.failed) == dict.fromkeys(KINDS, reason)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
