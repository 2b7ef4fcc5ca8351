"""DICOM objects of a result: right place, valid, faithful, silent about the patient, whole or not there."""

import errno
import io
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch
from dicom_results import LIMIT, make_dx, make_enhanced_mr, make_series, named, result_of
from highdicom.sr import CodedConcept
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

from invad_med.data.modalities import find_modality
from invad_med.data.transforms import from_image, to_image
from invad_med.readers.sources import read_slice, scan
from invad_med.writers.dicom.export import KINDS, DicomWriter
from invad_med.writers.dicom.secondary_capture import panel

pytestmark = pytest.mark.filterwarnings("ignore")  # pydicom's files break small rules of the standard

FILES = {
    "overlay.dcm", "parametric_map.dcm", "segmentation_binary.dcm", "segmentation_fractional.dcm",
    "secondary_capture.dcm", "presentation_state.dcm", "blending.dcm", "report.dcm",
}  # fmt: skip


def write(folder, source, maps=None, kinds=KINDS, **options):
    outcome = DicomWriter(folder, kinds, **options)(result_of(source, maps))
    return outcome, {p.name: pydicom.dcmread(p) for p in outcome.written}


def patient(position, orientation, spacing, row, column):
    """PS3.3 equation C.7.6.2.1-1."""
    x, y = np.array(orientation[:3], float), np.array(orientation[3:], float)
    return np.array(position, float) + x * float(spacing[1]) * column + y * float(spacing[0]) * row


def middle(mask):
    return np.argwhere(mask).mean(axis=0)


def in_frame(ds, frame, row, column):
    """Place of a pixel of a multi-frame object."""
    shared, own = ds.SharedFunctionalGroupsSequence[0], ds.PerFrameFunctionalGroupsSequence[frame]
    return patient(
        own.PlanePositionSequence[0].ImagePositionPatient,
        shared.PlaneOrientationSequence[0].ImageOrientationPatient,
        shared.PixelMeasuresSequence[0].PixelSpacing,
        row,
        column,
    )


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A bright square in slice 3 of an oblique, sheared, gapped, compressed series, seen through the real transforms.

    The slice is not square, so it is padded to equal extent, resized to 256 and brought back.
    """
    folder = tmp_path_factory.mktemp("planted")
    volume = np.full((5, 60, 44), 24, np.int16)
    volume[3, 20:29, 12:19] = 1500
    source, to_patient = make_series(folder / "in", volume, syntax=RLELossless)
    modality = find_modality("brain")
    maps = []
    for i in range(5):
        piece = read_slice(source, i)
        maps.append(from_image(to_image(piece, modality)[0], piece, modality) * 2 * LIMIT)
    outcome, objects = write(folder, source, np.stack(maps).astype(np.float32))
    assert outcome.failed == []
    return objects, to_patient(3, 24.0, 15.0), source, np.stack(maps).astype(np.float32)


def test_the_test_and_simpleitk_agree_where_the_square_is(planted):
    _, expected, source, _ = planted
    image = sitk.ReadImage(str(source.paths[3]))
    np.testing.assert_allclose(image.TransformIndexToPhysicalPoint((15, 24, 0)), expected, atol=1e-3)
    assert image[15, 24, 0] == image[12, 20, 0] > image[11, 20, 0]


def near(found, expected):
    assert np.linalg.norm(np.asarray(found) - expected) < 0.7, (found, expected)  # the smaller pixel spacing, mm


def test_overlay_is_in_place(planted):
    objects, expected, source, _ = planted
    for k in range(5):
        ds = objects[f"overlay_s{k:03d}.dcm"]
        plane = ds.overlay_array(0x6000)
        assert plane.any() == (k == 3)
        original = pydicom.dcmread(source.paths[k])
        np.testing.assert_array_equal(ds.pixel_array, original.pixel_array)
        assert ds.FrameOfReferenceUID == original.FrameOfReferenceUID
        assert ds.SOPInstanceUID != original.SOPInstanceUID and ds.SeriesInstanceUID != original.SeriesInstanceUID
    ds = objects["overlay_s003.dcm"]
    at = middle(ds.overlay_array(0x6000))
    near(patient(ds.ImagePositionPatient, ds.ImageOrientationPatient, ds.PixelSpacing, *at), expected)


def test_parametric_map_is_in_place_and_bit_identical(planted):
    objects, expected, source, maps = planted
    ds = objects["parametric_map.dcm"]
    values = np.frombuffer(ds.FloatPixelData, "<f4").reshape(maps.shape)
    uids = [str(pydicom.dcmread(p, stop_before_pixels=True).SOPInstanceUID) for p in source.paths]
    for k, frame in enumerate(ds.PerFrameFunctionalGroupsSequence):
        origin = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert uids.index(origin) == k  # ascending along the normal: OHIF looks at the order, not at the position
        assert frame.FrameContentSequence[0].DimensionIndexValues == k + 1
        np.testing.assert_array_equal(values[k], maps[k])
    frame = int(np.argmax(values.max(axis=(1, 2))))
    near(in_frame(ds, frame, *middle(values[frame] > LIMIT)), expected)
    window = ds.SharedFunctionalGroupsSequence[0].FrameVOILUTSequence[0]
    assert (window.WindowCenter, window.WindowWidth) == (LIMIT, 2 * LIMIT)


def test_segmentations_are_in_place(planted):
    objects, expected, _, maps = planted
    binary, fractional = objects["segmentation_binary.dcm"], objects["segmentation_fractional.dcm"]
    assert binary.NumberOfFrames == 1  # empty frames are left out
    near(in_frame(binary, 0, *middle(binary.pixel_array.reshape(60, 44))), expected)
    values = fractional.pixel_array.reshape(-1, 60, 44)
    frame = int(np.argmax(values.max(axis=(1, 2))))
    near(in_frame(fractional, frame, *middle(values[frame] > 128)), expected)
    assert abs(int(values.max()) - round(255 * float(maps.max()) / (2 * LIMIT))) <= 1


def test_contour_and_report_are_in_place(planted):
    objects, expected, source, _ = planted
    header = pydicom.dcmread(source.paths[3], stop_before_pixels=True)

    def placed(points):
        column, row = (points.min(axis=0) + points.max(axis=0)) / 2 - 0.5  # pixel centres are at 0.5
        return patient(header.ImagePositionPatient, header.ImageOrientationPatient, header.PixelSpacing, row, column)

    (annotation,) = [
        a for a in objects["presentation_state.dcm"].GraphicAnnotationSequence if a.get("GraphicObjectSequence")
    ]
    assert annotation.ReferencedImageSequence[0].ReferencedSOPInstanceUID == header.SOPInstanceUID
    near(placed(np.reshape(annotation.GraphicObjectSequence[0].GraphicData, (-1, 2))), expected)

    (region,) = [i for i in objects["report.dcm"].iterall() if i.keyword == "GraphicData"]
    near(placed(np.reshape(region.value, (-1, 2))), expected)


def test_capture_is_in_place(planted):
    objects, expected, source, _ = planted
    ds = objects["secondary_capture.dcm"]
    assert ds.NumberOfFrames == 5 and "ImagePositionPatient" not in ds and "FrameOfReferenceUID" not in ds
    left, top, factor = panel(ds)
    drawn = ds.pixel_array[3][top : top + 60 * factor, left : left + 44 * factor]
    contour = (np.abs(drawn.astype(int) - (70, 225, 255)) <= 2).all(axis=2)
    rows, columns = np.nonzero(contour)
    row, column = (
        (rows.min() + rows.max() + 1) / 2 / factor - 0.5,
        (columns.min() + columns.max() + 1) / 2 / factor - 0.5,
    )
    header = pydicom.dcmread(source.paths[3], stop_before_pixels=True)
    near(
        patient(header.ImagePositionPatient, header.ImageOrientationPatient, header.PixelSpacing, row, column), expected
    )


def test_blending_lays_the_map_over_the_source(planted):
    objects, _, source, _ = planted
    below, above = objects["blending.dcm"].AdvancedBlendingSequence
    uids = {str(pydicom.dcmread(p, stop_before_pixels=True).SOPInstanceUID) for p in source.paths}
    assert {str(i.ReferencedSOPInstanceUID) for i in below.ReferencedImageSequence} == uids
    (item,) = above.ReferencedImageSequence
    assert item.ReferencedSOPInstanceUID == objects["parametric_map.dcm"].SOPInstanceUID


def test_what_every_object_must_say(ct, tmp_path):
    outcome, objects = write(tmp_path, ct)
    source = pydicom.dcmread(ct.paths[0])
    assert outcome.failed == [] and set(objects) == FILES
    series = set()
    for ds in objects.values():
        assert (ds.StudyInstanceUID, ds.PatientID, ds.PatientName) == (
            source.StudyInstanceUID, source.PatientID, source.PatientName,
        )  # fmt: skip
        assert ds.ContentQualification == "RESEARCH" and "RESEARCH USE ONLY" in ds.DerivationDescription
        assert "RESEARCH" in ds.SeriesDescription
        assert str(source.SOPInstanceUID) in {str(e.value) for e in ds.iterall() if e.VR == "UI"}
        equipment = [ds, *ds.get("ContributingEquipmentSequence", [])]
        assert any(e.get("ManufacturerModelName") == "InvAD Brain MRI" and e.get("SoftwareVersions") for e in equipment)
        series.add(ds.SeriesInstanceUID)
        assert not [e for e in ds.iterall() if e.tag.is_private]
    assert len(series) == len(FILES) and source.SeriesInstanceUID not in series
    for name in ("overlay", "parametric_map", "segmentation_binary", "secondary_capture"):
        (item,) = objects[f"{name}.dcm"].SourceImageSequence
        assert item.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    numbers = {
        e.ConceptNameCodeSequence[0].CodeMeaning: float(e.MeasuredValueSequence[0].NumericValue)
        for e in _items(objects["report.dcm"])
        if e.get("ValueType") == "NUM"
    }
    assert numbers["Anomaly score"] == 1.5 and numbers["Threshold of the anomaly score"] == 1.2
    assert numbers["Conformal p-value among normal images"] == 0.03


def _items(ds):
    for item in ds.get("ContentSequence", []):
        yield item
        yield from _items(item)


def test_a_source_with_an_overlay_keeps_it(ct, tmp_path):
    ds = pydicom.dcmread(ct.paths[0])
    for group in (0x6000, 0x6002):
        for element, vr, value in [(0x10, "US", 128), (0x11, "US", 128), (0x40, "CS", "G"), (0x50, "SS", [1, 1]),
                                   (0x100, "US", 1), (0x102, "US", 0), (0x3000, "OW", b"\x0f" * 2048)]:  # fmt: skip
            ds.add_new((group, element), vr, value)
    ds.save_as(tmp_path / "with.dcm")
    (source,) = scan(tmp_path / "with.dcm").sources
    _, objects = write(tmp_path, source, kinds=["overlay"])
    (copy,) = objects.values()
    assert copy[0x6000, 0x3000].value == ds[0x6000, 0x3000].value
    assert copy[0x6004, 0x0040].value == "R" and copy.overlay_array(0x6004).sum() == 32 * 22


@pytest.mark.parametrize("name", ["MR_small_bigendian.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm"])
def test_a_copy_of_any_syntax_shows_the_same_pixels(name, tmp_path):
    (source,) = scan(named(name)).sources
    _, objects = write(tmp_path, source, kinds=["overlay"])
    np.testing.assert_array_equal(
        objects["overlay.dcm"].pixel_array, pydicom.dcmread(named("MR_small.dcm")).pixel_array
    )
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(next(tmp_path.rglob("overlay.dcm")))))
    np.testing.assert_array_equal(written, sitk.GetArrayFromImage(sitk.ReadImage(str(named("MR_small.dcm")))))


def test_the_lossy_mark_is_inherited(tmp_path):
    ds = pydicom.dcmread(named("CT_small.dcm"))
    ds.LossyImageCompression, ds.LossyImageCompressionRatio = "01", 12.5
    ds.LossyImageCompressionMethod = "ISO_10918_1"
    ds.save_as(tmp_path / "lossy.dcm")
    (source,) = scan(tmp_path / "lossy.dcm").sources
    _, objects = write(tmp_path, source)
    for name in FILES - {"presentation_state.dcm", "blending.dcm", "report.dcm"}:
        assert (objects[name].LossyImageCompression, objects[name].LossyImageCompressionRatio) == ("01", 12.5), name


def test_enhanced_frames_are_told_apart(tmp_path):
    (source,) = scan(named("eCT_Supplemental.dcm")).sources
    outcome, objects = write(tmp_path, source)
    assert outcome.failed == [("overlay", "the source is an enhanced object, which may hold no overlay plane; "
                                          "ask for segmentation")]  # fmt: skip
    ds = objects["parametric_map.dcm"]
    original = pydicom.dcmread(source.paths[0], stop_before_pixels=True)
    values = np.frombuffer(ds.FloatPixelData, "<f4").reshape(2, 512, 512)
    plane = ds.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient
    normal, values_by_place = np.cross(plane[:3], plane[3:]), []
    for k, frame in enumerate(ds.PerFrameFunctionalGroupsSequence):
        number = int(frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber)
        place = original.PerFrameFunctionalGroupsSequence[number - 1].PlanePositionSequence[0].ImagePositionPatient
        assert list(frame.PlanePositionSequence[0].ImagePositionPatient) == list(place)
        values_by_place.append((float(np.dot(normal, place)), float(values[k].max())))
    assert values_by_place == sorted(values_by_place)
    assert [v for _, v in values_by_place] == [9.0, 10.0]  # slices are numbered along the normal


def test_a_projection_gets_no_frame_of_reference(tmp_path):
    (source,) = scan(named("RG1_UNCI.dcm")).sources
    outcome, objects = write(tmp_path, source)
    assert [kind for kind, _ in outcome.failed] == ["blending"]
    for ds in objects.values():
        assert not [e for e in ds.iterall() if e.keyword in ("FrameOfReferenceUID", "ImagePositionPatient")]


def test_a_ct_with_group_lengths_and_without_frame_of_reference(tmp_path):
    (source,) = scan(named("693_UNCI.dcm")).sources
    outcome, objects = write(tmp_path, source)
    reasons = dict(outcome.failed)
    assert set(reasons) == {"segmentation", "blending"} and all("no frame of reference" in r for r in reasons.values())
    original = pydicom.dcmread(source.paths[0])
    assert any(e.tag.element == 0 for e in original)  # retired elements that no longer travel
    np.testing.assert_array_equal(objects["overlay.dcm"].pixel_array, original.pixel_array)


def test_an_input_that_never_was_dicom_gets_a_capture_of_its_own(tmp_path):
    Image.fromarray(np.arange(64 * 48, dtype=np.uint8).reshape(64, 48)).save(tmp_path / "x.png")
    (source,) = scan(tmp_path / "x.png").sources
    outcome, objects = write(tmp_path, source)
    assert set(objects) == {"secondary_capture.dcm"} and {k for k, _ in outcome.failed} == set(KINDS) - {
        "secondary_capture"
    }
    assert all("never was DICOM" in reason for _, reason in outcome.failed)
    (ds,) = objects.values()
    assert "FrameOfReferenceUID" not in ds and "SourceImageSequence" not in ds and not ds.PatientID
    assert not DicomWriter(tmp_path, ["overlay"]).wanted(source)


def test_uids_are_new_in_every_run_or_the_same_on_request(ct, tmp_path, monkeypatch):
    monkeypatch.setenv("INVAD_UID_SECRET", "5e" * 16)

    def uids(folder, **options):
        _, objects = write(tmp_path / folder, ct, **options)
        return {n: sorted(str(e.value) for e in ds.iterall() if e.VR == "UI") for n, ds in objects.items()}

    assert uids("a", deterministic_uids=True) == uids("b", deterministic_uids=True)
    assert not set(map(tuple, uids("c").values())) & set(map(tuple, uids("d").values()))
    assert uids("e", deterministic_uids=True, anonymize=True) == uids("f", deterministic_uids=True, anonymize=True)


SECRET = "ZZQ"


def identified(path):
    """Write a CT with a secret in every element that can hold text, nested ones included."""
    ds = pydicom.dcmread(named("CT_small.dcm"))
    ds.PatientName, ds.PatientComments, ds.ImageComments = f"{SECRET}^Jane", SECRET, SECRET
    ds.add_new(0x00091001, "LO", SECRET)
    ds.OperatorsName, ds.StationName, ds.DeviceSerialNumber = SECRET, SECRET, SECRET
    ds.InstitutionAddress, ds.AcquisitionComments, ds.PatientAge = SECRET, SECRET, "099Y"
    inner = pydicom.Dataset()
    inner.ScheduledProcedureStepDescription, inner.RequestedProcedureID = SECRET, SECRET
    ds.RequestAttributesSequence = [inner]
    for element in list(ds):
        if element.VR in ("LO", "SH", "PN", "LT", "ST", "UT") and element.keyword not in ("RescaleType",):
            element.value = SECRET
        elif element.VR == "DA":
            element.value = "20010203"
    ds.save_as(path)
    return ds


def test_anonymous_objects_hold_no_identity(tmp_path, caplog, capfd):
    original = identified(tmp_path / "x.dcm")
    (source,) = scan(tmp_path / "x.dcm").sources
    outcome, objects = write(tmp_path / "out", source, anonymize=True)
    assert outcome.failed == [] and set(objects) == FILES
    old = {str(e.value) for e in original.iterall() if e.VR == "UI" and not str(e.value).startswith("1.2.840.10008.")}
    for path in outcome.written:
        content = path.read_bytes()
        for word in [SECRET, "20010203", "099Y", *old]:
            assert word.encode() not in content, (path.name, word)
    for ds in objects.values():
        assert ds.PatientIdentityRemoved == "YES" and not ds.PatientName and not ds.StudyDate
    studies = {ds.StudyInstanceUID for ds in objects.values()}
    assert len(studies) == 1
    printed = capfd.readouterr()
    assert SECRET not in caplog.text + printed.out + printed.err


def resaved(folder, change):
    """Write a series whose slices ``change(ds, k)`` alters."""
    make_series(folder, np.zeros((4, 20, 24)))
    for k, path in enumerate(sorted(folder.iterdir())):
        ds = pydicom.dcmread(path)
        change(ds, k)
        ds.save_as(path)
    first, *others = scan(folder).sources
    paths = sum((s.paths for s in others), first.paths)
    return replace(first, paths=paths, n_slices=len(paths))  # one, also where it would be divided


@pytest.mark.parametrize("kept", [(0, 2, 3), (2,)])
def test_overlays_are_numbered_as_the_slices_of_the_table_are(tmp_path, kept):
    source, _ = make_series(tmp_path / "in", np.zeros((4, 20, 24)))
    whole = result_of(source)
    part = replace(
        whole, predictions=tuple(whole.predictions[k] for k in kept), pieces=tuple(whole.pieces[k] for k in kept)
    )
    outcome = DicomWriter(tmp_path / "out", ["overlay", "report"])(part)
    assert {p.name for p in outcome.written} == {"report.dcm", *(f"overlay_s{k:03d}.dcm" for k in kept)}
    for k in kept:
        ds = pydicom.dcmread(next(p for p in outcome.written if p.name == f"overlay_s{k:03d}.dcm"))
        origin = pydicom.dcmread(source.paths[k])
        assert ds.ImagePositionPatient == origin.ImagePositionPatient
        (image,) = ds.SourceImageSequence
        assert image.ReferencedSOPInstanceUID == origin.SOPInstanceUID


def test_files_that_share_an_instance_uid_are_not_referred_to(tmp_path):
    def change(ds, k):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{k // 2}"

    outcome, objects = write(tmp_path / "out", resaved(tmp_path / "in", change))
    assert not objects and all("share one SOP Instance UID" in reason for _, reason in outcome.failed)


def test_slices_of_two_frames_of_reference_are_not_placed_together(tmp_path):
    outcome, objects = write(
        tmp_path / "out", resaved(tmp_path / "in", lambda ds, k: setattr(ds, "FrameOfReferenceUID", f"1.2.3.{k // 2}"))
    )
    refused = {str(kind): reason for kind, reason in outcome.failed}
    assert set(refused) == {"parametric_map", "segmentation", "blending"}
    assert "no common frame of reference" in refused["segmentation"] and "report.dcm" in objects


@pytest.mark.parametrize(("sides", "stated"), [("LLLL", "L"), ("LLRR", "")])
def test_a_side_is_stated_where_all_slices_agree(tmp_path, sides, stated):
    def change(ds, k):
        ds.Laterality = sides[k]

    _, objects = write(tmp_path / "out", resaved(tmp_path / "in", change))
    for name in ("parametric_map.dcm", "presentation_state.dcm", "secondary_capture.dcm"):
        assert objects[name].Laterality == stated, name


def test_codes_of_people_and_places_do_not_survive(tmp_path):
    ds = pydicom.dcmread(named("CT_small.dcm"))
    person, who = CodedConcept(SECRET, "99HOSPITAL", f"Dr {SECRET}"), Dataset()
    who.PersonIdentificationCodeSequence = [person]
    for keyword in ("OperatorIdentificationSequence", "PerformingPhysicianIdentificationSequence"):
        setattr(ds, keyword, [who])
    for keyword in ("InstitutionCodeSequence", "EthnicGroupCodeSequence", "ScheduledStationNameCodeSequence"):
        setattr(ds, keyword, [person])
    ds.PatientBodyMassIndex, ds.DataSetTrailingPadding = "31.4159", SECRET.encode()
    ds.AnatomicRegionSequence = [CodedConcept("69536005", "SCT", "Head")]
    ds.save_as(tmp_path / "x.dcm")
    (source,) = scan(tmp_path / "x.dcm").sources
    outcome, objects = write(tmp_path / "out", source, anonymize=True)
    assert outcome.failed == []
    for path in outcome.written:
        assert all(word not in path.read_bytes() for word in (SECRET.encode(), b"31.4159")), path.name
    assert objects["overlay.dcm"].AnatomicRegionSequence[0].CodeValue == "69536005"


@pytest.mark.parametrize("signed", [0, 1])
def test_overlays_in_spare_bits_of_pixels_do_not_survive(tmp_path, signed):
    ds = pydicom.dcmread(named("CT_small.dcm"))
    low = -2048 if signed else 0
    values = np.random.default_rng(0).integers(low, low + 4096, (ds.Rows, ds.Columns)).astype("<i2")
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 12, 11, signed
    ds.PixelData = ((values & 0x0FFF) | 0x5000).astype("<i2").tobytes()  # a name may be drawn in bits 12 and 14
    ds.save_as(tmp_path / "x.dcm")
    (source,) = scan(tmp_path / "x.dcm").sources
    _, objects = write(tmp_path / "anonymous", source, kinds=["overlay"], anonymize=True)
    np.testing.assert_array_equal(np.frombuffer(objects["overlay.dcm"].PixelData, "<i2").reshape(values.shape), values)
    _, objects = write(tmp_path / "named", source, kinds=["overlay"])
    assert objects["overlay.dcm"].PixelData == ds.PixelData


def test_burned_in_text_is_not_called_anonymous(tmp_path):
    ds = pydicom.dcmread(named("CT_small.dcm"))
    ds.BurnedInAnnotation = "YES"
    ds.save_as(tmp_path / "x.dcm")
    (source,) = scan(tmp_path / "x.dcm").sources
    outcome, objects = write(tmp_path, source, anonymize=True)
    assert not objects and len(outcome.failed) == len(KINDS) and "Burned In Annotation" in outcome.failed[0][1]


def test_names_stay_out_of_logs_also_where_they_are_kept(tmp_path, caplog, capfd):
    ds = pydicom.dcmread(named("CT_small.dcm"))
    ds.PatientName, ds.StudyDate = f"{SECRET} {SECRET}={SECRET}", "20xx"
    ds.save_as(tmp_path / "x.dcm")
    (source,) = scan(tmp_path / "x.dcm").sources
    outcome, _ = write(tmp_path / "out", source)
    printed = capfd.readouterr()
    assert SECRET not in caplog.text + printed.out + printed.err + str(outcome.failed)
    assert SECRET not in "".join(map(str, outcome.written))


def test_a_full_disk_leaves_nothing_behind(ct, tmp_path, monkeypatch):
    class Full(io.FileIO):
        def write(self, data):
            super().write(bytes(data)[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full(self, mode="r", *rest, **others):
        return Full(self, mode) if "w" in mode else open(self, mode, *rest, **others)

    monkeypatch.setattr(Path, "open", full)
    outcome, _ = write(tmp_path, ct)
    assert {k for k, _ in outcome.failed} == set(KINDS)
    assert all("No space left" in reason for _, reason in outcome.failed)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_a_kill_leaves_only_whole_objects(ct, tmp_path):
    code = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[2]); calls = []\n"
        "real = os.replace\n"
        "def replace(a, b):\n"
        "    calls.append(b)\n"
        "    if len(calls) == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    real(a, b)\n"
        "os.replace = replace\n"
        "from dicom_results import *; from invad_med.writers.dicom.export import *\n"
        "(source,) = scan(named('CT_small.dcm')).sources\n"
        "DicomWriter(sys.argv[1], KINDS)(result_of(source))\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(tmp_path), str(Path(__file__).parents[2])])
    assert done.returncode == -9
    whole = list(tmp_path.rglob("*.dcm"))
    assert len(whole) == 2
    assert all(pydicom.dcmread(p).SOPInstanceUID for p in whole)
    assert all(p.name.startswith(".") for p in tmp_path.rglob("*") if p.is_file() and p not in whole)


def test_one_object_that_fails_stops_no_other(ct, tmp_path, monkeypatch):
    from invad_med.writers.dicom import export

    def broken(job):
        raise KeyError(SECRET)

    monkeypatch.setitem(export._WRITERS, "segmentation", broken)
    outcome, objects = write(tmp_path, ct)
    assert outcome.failed == [("segmentation", "the source breaks the standard (KeyError)")]
    assert set(objects) == {n for n in FILES if not n.startswith("segmentation")}


def test_unknown_object_types_are_refused(tmp_path):
    with pytest.raises(ValueError, match="dicom_out holds 'heatmap'; object types are overlay, parametric_map, "):
        DicomWriter(tmp_path, ["heatmap"])


def errors(path):
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, errors="replace")
    return {line.strip() for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")}


KNOWN = {  # errors that stay, and why
    # dicom3tools of 2022 does not count the references of an Advanced Blending Sequence
    "blending.dcm": "ReferencedSeriesSequence present but Instance does not reference Instances",
}
PROJECTION = ("FrameOfReference", "PlanePosition", "PlaneOrientation", "PixelMeasures")  # none is invented


SOURCES = {  # each made where the test may write
    **{n: lambda path, n=n: named(n) for n in ("CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "RG1_UNCI.dcm",
                                               "eCT_Supplemental.dcm")},
    "DX": make_dx,
    "enhanced MR": make_enhanced_mr,
}  # fmt: skip


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy (dicom3tools) is not installed")
@pytest.mark.parametrize("name", SOURCES)
def test_dciodvfy_finds_no_error_that_the_source_has_not(name, tmp_path):
    (source,) = scan(SOURCES[name](tmp_path / "x.dcm")).sources
    before = errors(source.paths[0]) if name != "enhanced MR" else set()
    assert name != "DX" or not before
    outcome, objects = write(tmp_path, source)
    projection, enhanced = name in ("RG1_UNCI.dcm", "DX"), name.startswith("e")
    left_out = {"blending.dcm"} if projection else {"overlay.dcm"} if enhanced else set()
    assert set(objects) == FILES - left_out
    for path in outcome.written:
        new = {e for e in errors(path) - before if KNOWN.get(path.name, "\0") not in e}
        if projection and path.name == "parametric_map.dcm":
            new = {e for e in new if not any(word in e for word in PROJECTION)}
        assert not new, path.name


@pytest.mark.skipif(not shutil.which("dcm2pnm"), reason="dcm2pnm (dcmtk) is not installed")
def test_dcmtk_draws_the_overlay(ct, tmp_path):
    write(tmp_path, ct, kinds=["overlay"])
    (path,) = tmp_path.rglob("overlay.dcm")
    pictures = []
    for option in ("-O", "+O"):
        out = tmp_path / f"{option[0] == '+'}.pgm"
        subprocess.run(["dcm2pnm", option, *(["1"] if option == "+O" else []), str(path), str(out)], check=True)
        pictures.append(np.asarray(Image.open(out)).astype(int))
    region = np.zeros((128, 128), bool)
    region[32:64, 42:64] = True
    np.testing.assert_array_equal(pictures[1][region], pictures[0][region])  # type R: the region stays, the rest dims
    assert (pictures[1] < pictures[0])[~region].mean() > 0.9


@pytest.mark.skipif(not shutil.which("dcm2pnm"), reason="dcm2pnm (dcmtk) is not installed")
def test_dcmtk_draws_what_has_integer_pixels(ct, tmp_path):
    outcome, objects = write(tmp_path, ct)
    drawn = {}
    for path in outcome.written:
        window = ["--min-max-window"] * (path.stem == "overlay")  # this CT has none of its own
        command = ["dcm2pnm", "--write-png", "--no-overlays", *window, str(path), str(path.with_suffix(".png"))]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            drawn[path.stem] = np.asarray(Image.open(path.with_suffix(".png")))
        else:
            assert "no pixel data found" in done.stderr, (path.name, done.stderr)
    assert set(drawn) == {"overlay", "segmentation_binary", "segmentation_fractional", "secondary_capture"}
    assert len(np.unique(drawn["overlay"])) > 100
    binary = objects["segmentation_binary.dcm"].pixel_array
    np.testing.assert_array_equal(drawn["segmentation_binary"], binary * drawn["segmentation_binary"].max())
    assert binary.any() and drawn["segmentation_binary"].any()
    for name in ("segmentation_fractional", "secondary_capture"):
        np.testing.assert_array_equal(drawn[name], objects[f"{name}.dcm"].pixel_array)


@pytest.mark.skipif(not shutil.which("dsrdump"), reason="dsrdump (dcmtk) is not installed")
def test_dcmtk_reads_the_report(ct, tmp_path):
    write(tmp_path, ct, kinds=["report"])
    (path,) = tmp_path.rglob("report.dcm")
    text = subprocess.run(["dsrdump", str(path)], capture_output=True, text=True, check=True).stdout
    assert "Anomaly score" in text and '"1.5"' in text


torch.set_num_threads(1)
