"""What makes one stack: an acquisition, whatever lies beside it, and never part of two."""

import numpy as np
import pytest
from dicom_made import write_series as write

from invad_med.readers.sources import read_slice, scan

pytestmark = pytest.mark.filterwarnings("ignore")  # pydicom's files break small rules of the standard


def marks(folder):
    """Return what each stack of a folder holds, in order."""
    return sorted([int(read_slice(s, i).pixels[-1, 0]) for i in range(s.n_slices)] for s in scan(folder).sources)


def phases(*parts, **elements):
    """Return slices of several parts (first mark, positions, elements), numbered one after the other."""
    slices = []
    for start, positions, own in parts:
        for k, z in enumerate(positions):
            slices.append((z, start + k, {"InstanceNumber": len(slices) + 1} | elements | own))
    return slices


A, B = range(0, 30, 5), range(0, 50, 5)
SIX, TEN = list(range(100, 106)), list(range(200, 210))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (dict(AcquisitionNumber=1), dict(AcquisitionNumber=2)),
        (dict(EchoTime=5, EchoNumbers=1), dict(EchoTime=10, EchoNumbers=2)),
        (dict(TemporalPositionIdentifier=1), dict(TemporalPositionIdentifier=2)),
        (dict(DiffusionBValue=0.0), dict(DiffusionBValue=1000.0)),
        (dict(ImageType=["ORIGINAL", "PRIMARY", "M"]), dict(ImageType=["ORIGINAL", "PRIMARY", "P"])),
        (
            dict(ImageType=["DERIVED", "PRIMARY", "W"], EchoTime=2),
            dict(ImageType=["DERIVED", "PRIMARY", "F"], EchoTime=2),
        ),
        (dict(TriggerTime=12.5), dict(TriggerTime=430)),
        (dict(AcquisitionTime="101500.1"), dict(AcquisitionTime="101530")),
        (dict(ContentTime="101500"), dict(ContentTime="101530")),
        (dict(ConvolutionKernel="B30"), dict(ConvolutionKernel="B70")),
        (dict(InversionTime=100), dict(InversionTime=2500)),
        (dict(), dict()),  # nothing but running numbers
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_phases_of_unequal_coverage_are_two_stacks(one, other, seed, tmp_path):
    write(tmp_path, phases((100, A, one), (200, B, other)), seed)
    assert marks(tmp_path) == [SIX, TEN]


@pytest.mark.parametrize("keyword", ["PatientID", "StudyInstanceUID"])
def test_two_patients_or_studies_under_one_series_are_two_stacks(keyword, tmp_path):
    """Positions interleave, as where somebody's files were copied and renamed, but for their Series Instance UID."""
    shifted = [z + 2.5 for z in B]
    write(tmp_path, phases((100, A, {keyword: "1.2.3"}), (200, shifted, {keyword: "1.2.4"})))
    assert marks(tmp_path) == [SIX, TEN]
    names = [s.name for s in scan(tmp_path).sources]
    assert len({name.casefold() for name in names}) == 2


def test_each_phase_has_its_own_scale_whatever_lies_beside_it(tmp_path):
    first, second = (100, A, dict(AcquisitionNumber=1)), (3000, B, dict(AcquisitionNumber=2))
    write(tmp_path / "both", phases(first, second))
    write(tmp_path / "alone", phases(second))
    both = {s.n_slices: read_slice(s, 0) for s in scan(tmp_path / "both").sources}
    (alone,) = scan(tmp_path / "alone").sources
    assert both[10].value_range == read_slice(alone, 0).value_range
    assert both[6].value_range[1] < 200


def test_echoes_with_one_instance_number_are_told_by_echo(tmp_path):
    slices = [(5 * k, 100 * e + k, dict(InstanceNumber=k, EchoTime=5 * e)) for k in range(8) for e in (1, 2)]
    write(tmp_path, slices)
    assert marks(tmp_path) == [list(range(100, 108)), list(range(200, 208))]
    assert [s.name.split("-", 2)[2] for s in scan(tmp_path).sources] == ["te10", "te5"]


def test_names_do_not_hang_on_file_names(tmp_path):
    slices = [(5 * k, 100 * e + k, dict(InstanceNumber=k, EchoTime=5 * e)) for k in range(4) for e in (1, 2, 3)]
    said = []
    for seed in range(3):
        write(tmp_path / str(seed), slices, seed)
        said.append([(s.name[2:], int(read_slice(s, 0).pixels[-1, 0])) for s in scan(tmp_path / str(seed)).sources])
    assert said[0] == said[1] == said[2]


def test_phases_times_echoes(tmp_path):
    slices = [
        (5 * k, 100 * (2 * p + e) + k, dict(EchoTime=4 + e, TemporalPositionIdentifier=p, InstanceNumber=k))
        for k in range(3) for p in range(3) for e in (1, 2)
    ]  # fmt: skip
    write(tmp_path, slices)
    assert marks(tmp_path) == [[100 * n + k for k in range(3)] for n in range(1, 7)]


def test_directions_of_diffusion(tmp_path):
    directions = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    slices = [(5 * k, 100 + k, dict(DiffusionBValue=0.0)) for k in range(4)]
    slices += [
        (5 * k, 200 + 100 * d + k, dict(DiffusionBValue=800.0, DiffusionGradientOrientation=directions[d]))
        for d in range(3) for k in range(4)
    ]  # fmt: skip
    write(tmp_path, slices)
    assert marks(tmp_path) == [[100 * n + k for k in range(4)] for n in range(1, 5)]


def test_a_heart_that_beats_unevenly(tmp_path):
    slices = [(8 * k, 100 * (t + 1) + k, dict(TriggerTime=40.0 * t + k)) for k in range(5) for t in range(4)]
    write(tmp_path, slices)
    assert marks(tmp_path) == [[100 * (t + 1) + k for k in range(5)] for t in range(4)]


@pytest.mark.parametrize("shift", [0.05, 0.4, 0.5, 1.7, 2.5])
@pytest.mark.parametrize("told_by", ["EchoTime", "TemporalPositionIdentifier", "ImageType", "AcquisitionNumber"])
def test_a_table_shifted_between_phases(shift, told_by, tmp_path):
    values = [["DERIVED", "PRIMARY", "W"], ["DERIVED", "PRIMARY", "F"]] if told_by == "ImageType" else [1, 2]
    shifted = [z + shift for z in range(0, 40, 5)]
    parts = (100, range(0, 30, 5), {told_by: values[0]}), (200, shifted, {told_by: values[1]})
    write(tmp_path, phases(*parts, SliceThickness=5))
    assert marks(tmp_path) == [list(range(100, 106)), list(range(200, 208))]


def test_a_table_shifted_between_phases_that_differ_in_time_alone(tmp_path):
    slices = []
    for start, offset in ((100, 0.0), (200, 0.4)):
        for k in range(6):
            slices.append((5 * k + offset, start + k, dict(ContentTime=f"1015{len(slices):02d}")))
    write(tmp_path, slices)
    assert marks(tmp_path) == [list(range(100, 106)), list(range(200, 206))]


@pytest.mark.parametrize(
    "keyword", ["AcquisitionNumber", "ContentTime", "AcquisitionTime", "TriggerTime", "RepetitionTime"]
)
def test_what_changes_from_slice_to_slice_divides_nothing(keyword, tmp_path):
    value = {"AcquisitionNumber": "{}", "TriggerTime": "{}", "RepetitionTime": "9{}"}.get(keyword, "1015{}")
    slices = [(5 * k, 100 + k, {keyword: value.format(10 + k), "InstanceNumber": k}) for k in range(12)]
    write(tmp_path, slices)
    assert marks(tmp_path) == [list(range(100, 112))]


def test_odd_and_even_slices_of_one_acquisition_are_one_stack(tmp_path):
    order = [0, 2, 4, 6, 8, 1, 3, 5, 7]
    slices = [
        (
            5 * k,
            100 + k,
            dict(AcquisitionNumber=1 + k % 2, ContentTime=f"1015{n:02d}", InstanceNumber=n, SliceThickness=4),
        )
        for n, k in enumerate(order)
    ]
    write(tmp_path, slices)
    assert marks(tmp_path) == [list(range(100, 109))]


def test_thin_and_thick_slices_of_one_head_are_one_stack(tmp_path):
    places = [4 * k for k in range(8)] + [32 + 8 * k for k in range(6)]
    kinds = [["ORIGINAL", "PRIMARY", "AXIAL", "ADD"], ["ORIGINAL", "PRIMARY", "AXIAL"]]
    slices = [
        (z, 100 + k, dict(AcquisitionNumber=1 + k // 2, SliceThickness=8 if k > 7 else 4, ImageType=kinds[k > 7]))
        for k, z in enumerate(places)
    ]
    write(tmp_path, slices)
    assert marks(tmp_path) == [list(range(100, 114))]


def test_a_copy_of_one_slice_and_of_all(tmp_path):
    write(tmp_path / "one", phases((100, A, {})))
    write(tmp_path / "all", phases((100, A, {})))
    for name in ("one", "all"):
        files = sorted((tmp_path / name).iterdir())
        for file in files if name == "all" else files[:1]:
            (file.parent / f"copy{file.name}").write_bytes(file.read_bytes())
    one, everything = marks(tmp_path / "one"), marks(tmp_path / "all")
    assert SIX in one and sum(map(len, one)) == 7
    assert everything == [SIX, SIX]


def test_a_slice_taken_again_later_is_no_part_of_the_first_stack(tmp_path):
    again = [(10, 300, dict(AcquisitionNumber=50, InstanceNumber=50, ContentTime="120000"))]
    slices = [
        (5 * k, 100 + k, dict(AcquisitionNumber=k, InstanceNumber=k, ContentTime=f"1015{k:02d}")) for k in range(8)
    ]
    write(tmp_path, slices + again)
    assert marks(tmp_path) == [list(range(100, 108)), [300]]


def test_the_second_pass_runs_the_other_way(tmp_path):
    slices = phases((100, A, {}), (200, list(B)[::-1], {}))
    write(tmp_path, slices)
    assert marks(tmp_path) == [SIX, TEN[::-1]]


@pytest.mark.parametrize("noise", [1e-5, 4e-4, 2e-3])
def test_late_decimals_of_the_cosines_divide_nothing(noise, tmp_path):
    rng = np.random.default_rng(0)
    slices = []
    for k in range(10):
        turn = np.arccos(0.9995) + rng.uniform(-noise, noise)  # on the edge of three digits
        row, column = [np.cos(turn), np.sin(turn), 0], [-np.sin(turn), np.cos(turn), 0]
        slices.append((5 * k, 100 + k, dict(ImageOrientationPatient=[*row, *column])))
    write(tmp_path, slices)
    assert marks(tmp_path) == [list(range(100, 110))]


def test_positions_on_both_sides_of_a_rounding_edge_are_one_position(tmp_path):
    slices = [(5 * k + 0.005 - 1e-4 * p, 100 * p + k, dict(EchoTime=5 * p)) for k in range(4) for p in (1, 2)]
    write(tmp_path, slices)
    assert marks(tmp_path) == [[100, 101, 102, 103], [200, 201, 202, 203]]


def test_two_spacings_are_two_stacks(tmp_path):
    write(
        tmp_path, phases((100, A, dict(PixelSpacing=[1, 1])), (200, [z + 30 for z in A], dict(PixelSpacing=[0.5, 0.5])))
    )
    assert marks(tmp_path) == [SIX, list(range(200, 206))]
