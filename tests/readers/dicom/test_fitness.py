"""What the header says against scoring, and what the table says of what is scored."""

import numpy as np
import pytest
from dicom_made import at, item, write_frames
from dicom_made import write_series as write

from invad_med.inference.choose import choose_modality
from invad_med.readers.sources import scan

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
        ([-1, 0, 0, 0, -1, 0], None),
    ],
)
def test_other_planes_than_axial_are_noted(orientation, plane, modality, tmp_path):
    source = one(tmp_path, (0, 100, dict(ImageOrientationPatient=orientation, Modality=modality)))
    words = [note.split()[0] for note in source.notes]
    assert words == ([] if plane is None else ["coronal" if plane == "oblique" and "coronal" in words else plane])
    assert all(note.endswith("slices, while the models were trained on axial ones") for note in source.notes)


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
