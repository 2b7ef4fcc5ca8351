"""What the header says against scoring, and what the table says of what is scored."""

import numpy as np
import pydicom
import pytest
from dicom_made import at, item, write_frames
from dicom_made import write_series as write
from pydicom.uid import SecondaryCaptureImageStorage

from invad_med.inference.choose import choose_modality
from invad_med.readers.sources import read_slice, scan

pytestmark = pytest.mark.filterwarnings("ignore")  # pydicom's files break small rules of the standard
AXIAL, CORONAL, SAGITTAL = [1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1]


def one(folder, *slices):
    write(folder, slices or [(0, 100, {})])
    return scan(folder).sources[0]


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"], "mosaic"),
        (["DERIVED", "PRIMARY", "DIFFUSION", "ADC", "ND", "NORM", "MOSAIC"], "mosaic"),
        (["ORIGINAL", "PRIMARY", "LOCALIZER"], "localiser"),
        (["DERIVED", "SECONDARY", "REF_SURVIEW"], "localiser"),
        (["ORIGINAL", "PRIMARY", "scout"], "localiser"),
        (["ORIGINAL", "PRIMARY", "SURVEY"], "localiser"),
    ],
)
def test_mosaics_and_localisers_are_not_scored(kind, word, tmp_path):
    source = one(tmp_path, (0, 100, dict(ImageType=kind)))
    assert source.unfit.startswith("not scored: a ") and word in source.unfit
    choice = choose_modality(source, default="brain")
    assert choice.modality is None and choice.reason == source.unfit


@pytest.mark.parametrize("kind", [["ORIGINAL", "PRIMARY", "AXIAL"], ["ORIGINAL", "PRIMARY", "M", "SE"], None])
def test_plain_images_are_scored_without_a_note(kind, tmp_path):
    source = one(tmp_path, (0, 100, dict(ImageType=kind)))
    assert (source.unfit, source.notes) == (None, ())


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (["DERIVED", "PRIMARY", "DIFFUSION", "ADC"], "an apparent diffusion coefficient map"),
        (["ORIGINAL", "PRIMARY", "P", "ND"], "a phase image"),
        (["DERIVED", "SECONDARY", "PROJECTION IMAGE", "MIP"], "an intensity projection"),
        (["DERIVED", "PRIMARY", "PERFUSION", "RCBF"], "a perfusion map"),
        (["DERIVED", "SECONDARY", "SUBTRACTION"], "a subtraction"),
    ],
)
def test_derived_images_are_noted(kind, said, tmp_path):
    source = one(tmp_path, (0, 100, dict(ImageType=kind)))
    assert source.unfit is None
    assert source.notes == (f"{said}, not the image itself, on which the models were trained",)


@pytest.mark.parametrize("modality", ["MR", "CT", "PT"])
@pytest.mark.parametrize(
    ("orientation", "plane"),
    [
        (CORONAL, "coronal"),
        (SAGITTAL, "sagittal"),
        ([1, 0, 0, 0, 0.7071, -0.7071], "oblique"),
        ([1, 0, 0, 0, np.cos(0.35), -np.sin(0.35)], None),  # along the orbitomeatal line
        (AXIAL, None),
    ],
)
def test_other_planes_than_axial_are_noted(orientation, plane, modality, tmp_path):
    units = dict(RescaleSlope=1, RescaleIntercept=-1024)
    source = one(tmp_path, (0, 100, dict(ImageOrientationPatient=orientation, Modality=modality, **units)))
    words = [note.split()[0] for note in source.notes]
    assert words == ([] if plane is None else ["coronal" if plane == "oblique" and "coronal" in words else plane])
    assert all(note.endswith("slices, while the models were trained on axial ones") for note in source.notes)
    assert source.ascends == (plane is None)


@pytest.mark.parametrize(
    ("orientation", "ascends"),
    [(AXIAL, True), ([-1, 0, 0, 0, -1, 0], True), ([1, 0, 0, 0, -1, 0], False), ([-1, 0, 0, 0, 1, 0], False)],
)
def test_axial_slices_whose_normal_points_down_go_from_head_to_feet(orientation, ascends, tmp_path):
    write(
        tmp_path,
        [(0, 100, dict(ImagePositionPatient=[0, 0, k], ImageOrientationPatient=orientation)) for k in range(6)],
    )
    (source,) = scan(tmp_path).sources
    heights = [float(pydicom.dcmread(path).ImagePositionPatient[2]) for path in source.paths]
    assert source.ascends == ascends == (heights == sorted(heights))


@pytest.mark.parametrize(
    ("orientation", "rows", "columns"),
    [
        ([-1, 0, 0, 0, -1, 0], "right", "front"),  # prone
        ([1, 0, 0, 0, -1, 0], "left", "front"),
        ([-1, 0, 0, 0, 1, 0], "right", "back"),
        ([0, 1, 0, -1, 0, 0], "back", "right"),  # on the side
        ([0.7, 0.714, 0, -0.714, 0.7, 0], "back", "right"),
    ],
)
def test_axial_slices_that_are_turned_or_mirrored_are_noted(orientation, rows, columns, tmp_path):
    (note,) = one(tmp_path, (0, 100, dict(ImageOrientationPatient=orientation))).notes
    assert note.startswith(f"turned or mirrored: rows run to the patient's {rows}, columns to the {columns}, while")


def kind(*words):
    return dict(MRImageFrameTypeSequence=[item(FrameType=list(words))])


def test_frames_of_a_file_are_noted_by_what_they_are_themselves(tmp_path):
    upright, prone = ([item(ImageOrientationPatient=o)] for o in ([1, 0, 0, 0, 1, 0], [-1, 0, 0, 0, -1, 0]))
    frames = [(100, at(float(z), PlaneOrientationSequence=upright if z < 10 else prone)) for z in (0, 5, 10, 15, 20)]
    write_frames(tmp_path / "x.dcm", frames, shared=item(PixelMeasuresSequence=[item(PixelSpacing=[1, 1])]))
    noted = {s.frames: [n.split(":")[0] for n in s.notes] for s in scan(tmp_path).sources}
    assert noted == {(0, 1): [], (2, 3, 4): ["turned or mirrored"]}


@pytest.mark.parametrize(("word", "noted", "unfit"), [("M", 0, 0), ("ADC", 1, 0), ("LOCALIZER", 0, 1)])
def test_a_frame_that_is_not_the_first_is_looked_at_too(word, noted, unfit, tmp_path):
    frames = [(100, at(float(z), **kind("ORIGINAL", "PRIMARY", "M" if z else word, "NONE"))) for z in (10, 5, 0)]
    write_frames(tmp_path / "x.dcm", frames)
    (source,) = scan(tmp_path).sources
    assert (len(source.notes), source.unfit is not None) == (noted, unfit == 1)


def test_an_enhanced_file_of_one_frame_states_its_plane_there(tmp_path):
    shared = item(PlaneOrientationSequence=[item(ImageOrientationPatient=CORONAL)])
    write_frames(tmp_path / "x.dcm", [(100, at(0.0))], shared=shared)
    assert [note.split()[0] for note in scan(tmp_path).sources[0].notes] == ["coronal"]


FRONTAL = dict(Modality="DX", BodyPartExamined="CHEST", ViewPosition="PA", PatientOrientation=["L", "F"])


@pytest.mark.parametrize(
    ("elements", "said"),
    [
        (dict(), None),
        (dict(ViewPosition="AP"), None),
        (dict(PatientOrientation=["LH", "FP"]), None),
        (dict(PatientOrientation=None, ViewPosition=None), None),
        (dict(ViewPosition="LL"), "a lateral view (View Position LL)"),
        (dict(ViewPosition="RAO"), "an oblique view"),
        (dict(ViewPosition="LLD"), "a decubitus view"),
        (dict(PatientOrientation=["P", "F"]), "a lateral view by its Patient Orientation"),
        (dict(PatientOrientation=["R", "F"]), "mirrored left to right by its Patient Orientation"),
        (dict(PatientOrientation=["R", "H"]), "upside down by its"),
        (dict(PatientOrientation=["F", "R"]), "lying on its side by its"),
        (dict(PresentationIntentType="FOR PROCESSING"), "raw detector values (FOR PROCESSING)"),
        (dict(PresentationLUTShape="IDENTITY"), None),
        (dict(PresentationLUTShape="INVERSE"), "Photometric Interpretation MONOCHROME2 and Presentation LUT Shape INV"),
        (
            dict(PresentationLUTShape="IDENTITY", PhotometricInterpretation="MONOCHROME1"),
            "Photometric Interpretation MONOCHROME1 and Presentation LUT Shape IDENTITY contradict each other",
        ),
    ],
)
def test_films_unlike_those_that_were_trained_on_are_noted(elements, said, tmp_path):
    notes = one(tmp_path, (0, 100, FRONTAL | elements)).notes
    assert len(notes) == (said is not None) and all(note.startswith(said) for note in notes)


@pytest.mark.parametrize(
    ("elements", "noted"),
    [
        (dict(RescaleSlope=1, RescaleIntercept=-1024), False),
        (dict(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="US"), False),
        (dict(RescaleSlope=1, RescaleIntercept=0, RescaleType="OD"), True),
        (dict(RescaleIntercept=-1024), True),
        (dict(), True),
    ],
)
def test_ct_on_a_scale_of_its_own_is_noted(elements, noted, tmp_path):
    source = one(tmp_path, (0, 100, dict(Modality="CT", BodyPartExamined="LIVER", **elements)))
    assert (read_slice(source, 0).unit != "HU") == noted
    assert [note.startswith("CT that is not said to be in Hounsfield units") for note in source.notes] == [True] * noted


def test_a_secondary_capture_of_a_scanner_is_noted_and_one_of_a_film_is_not(tmp_path):
    capture = dict(SOPClassUID=SecondaryCaptureImageStorage, ConversionType="WSD")
    assert [n.split(",")[0] for n in one(tmp_path / "mr", (0, 100, capture)).notes] == ["a secondary capture"]
    assert one(tmp_path / "cr", (0, 100, capture | FRONTAL | dict(Modality="CR"))).notes == ()


@pytest.mark.parametrize("kind", ["LABEL", "OVERVIEW"])
def test_label_and_overview_of_a_slide_are_not_scored(kind, tmp_path):
    source = one(tmp_path, (0, 100, dict(Modality="SM", ImageType=["ORIGINAL", "PRIMARY", kind, "NONE"])))
    assert source.unfit == "not scored: the label or overview of a slide, not its tissue"


def plane(orientation, k):
    return dict(
        ImageOrientationPatient=orientation,
        ImagePositionPatient=list(5.0 * k * np.cross(*np.reshape(orientation, (2, 3)))),
    )


def test_three_planes_in_one_series_are_a_localiser(tmp_path):
    write(tmp_path, [(0, 100, plane(o, k)) for o in (AXIAL, CORONAL, SAGITTAL) for k in range(3)])
    found = scan(tmp_path).sources
    assert len(found) == 3
    assert {s.unfit for s in found} == {"not scored: planes of three directions in one series, as in a localiser"}


def test_three_planes_in_one_file_are_a_localiser(tmp_path):
    frames = [
        (100, at(0.0, PlaneOrientationSequence=[item(ImageOrientationPatient=o)])) for o in (AXIAL, CORONAL, SAGITTAL)
    ]
    shared = item(PixelMeasuresSequence=[item(PixelSpacing=[1, 1], SliceThickness=3)])
    write_frames(tmp_path / "x.dcm", frames, shared=shared)
    assert {s.unfit for s in scan(tmp_path).sources} == {
        "not scored: planes of three directions in one series, as in a localiser"
    }


def test_a_stack_with_its_two_reformats_is_no_localiser(tmp_path):
    slices = [(0, 100, plane(AXIAL, k)) for k in range(30)]
    write(tmp_path, slices + [(0, 100, plane(o, k)) for o in (CORONAL, SAGITTAL) for k in range(5)])
    assert {s.unfit for s in scan(tmp_path).sources} == {None}
    assert sorted(len(s.notes) for s in scan(tmp_path).sources) == [0, 1, 1]
