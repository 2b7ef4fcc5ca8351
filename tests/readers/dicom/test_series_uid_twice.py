"""One Series Instance UID for what is not one series: patients, studies, kinds of image, frames of reference."""

import pytest
from dicom_made import write_series as write

from invad_med.readers.sources import scan, whole_source

pytestmark = pytest.mark.filterwarnings("ignore")  # pydicom's files break small rules of the standard

ONE = dict(PatientID="P1", StudyInstanceUID="1.2.3", Modality="MR", BodyPartExamined="BRAIN", FrameOfReferenceUID="1.5")
OTHERS = {
    "patient": dict(PatientID="P2"),
    "study": dict(StudyInstanceUID="1.2.4"),
    "modality": dict(Modality="CT"),
    "side": dict(Laterality="L"),
    "body part": dict(BodyPartExamined="CSPINE"),
    "frame of reference": dict(FrameOfReferenceUID="1.6"),
}


def marks(folder):
    return sorted([int(piece.pixels.min()) for piece in whole_source(source)] for source in scan(folder).sources)


@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.parametrize("shift", [0, 0.7, 40])  # the same places, among one another, one after the other
def test_what_a_series_cannot_hold_both_of_divides_it(what, shift, tmp_path):
    write(tmp_path, [(5 * k, 100 + k, ONE) for k in range(4)], seed=1)
    write(tmp_path, [(5 * k + shift, 900 + k, ONE | OTHERS[what]) for k in range(4)], seed=2)
    assert marks(tmp_path) == [[100, 101, 102, 103], [900, 901, 902, 903]]


def test_patients_without_an_id_are_told_apart_by_name(tmp_path):
    for k, name in enumerate(("DOE^JANE", "ROE^RICHARD")):
        write(tmp_path, [(5 * i, 100 * k + i, ONE | dict(PatientID="", PatientName=name)) for i in range(3)], seed=k)
    assert marks(tmp_path) == [[0, 1, 2], [100, 101, 102]]


def test_a_frame_of_reference_of_its_own_for_every_slice_divides_nothing(tmp_path):
    write(tmp_path, [(5 * k, 100 + k, ONE | dict(FrameOfReferenceUID=f"1.5.{k}")) for k in range(4)])
    assert marks(tmp_path) == [[100, 101, 102, 103]]


def test_modality_and_body_part_are_those_of_the_part(tmp_path):
    write(tmp_path, [(5 * k, 100 + k, ONE) for k in range(3)], seed=1)
    write(tmp_path, [(50 + 5 * k, 900 + k, ONE | dict(BodyPartExamined="CSPINE")) for k in range(3)], seed=2)
    parts = {int(whole_source(s)[0].pixels.min()): s.body_part for s in scan(tmp_path).sources}
    assert parts == {100: "BRAIN", 900: "CSPINE"}
