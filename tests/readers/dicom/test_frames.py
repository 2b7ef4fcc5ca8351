"""Frames of one file as acquisitions: by every dimension that is no position, in the order the file states."""

import copy

import numpy as np
import pytest
from dicom_made import at, item
from dicom_made import write_frames as write
from pydicom.uid import OphthalmicTomographyImageStorage

from invad_med.data.slices import Source
from invad_med.readers.dicom.pixels import read
from invad_med.readers.sources import read_slice, scan

pytestmark = pytest.mark.filterwarnings("ignore")  # pydicom's files break small rules of the standard


def marks(folder):
    return [[int(read_slice(s, i).pixels[1, 0]) for i in range(s.n_slices)] for s in scan(folder).sources]


@pytest.mark.parametrize(
    "told_by",
    [
        lambda t: dict(FrameContentSequence=[item(TemporalPositionIndex=t)]),
        lambda t: dict(MREchoSequence=[item(EffectiveEchoTime=4.6 * t)]),
        lambda t: dict(MRDiffusionSequence=[item(DiffusionBValue=1000.0 * (t - 1))]),
        lambda t: dict(MRImageFrameTypeSequence=[item(FrameType=["ORIGINAL", "PRIMARY", "M_FFE", "MP"[t - 1]])]),
        lambda t: dict(FrameContentSequence=[item(FrameAcquisitionNumber=t)]),
        lambda t: dict(FrameContentSequence=[item(FrameAcquisitionDateTime=f"2020010110000{t}")]),
        lambda t: dict(CardiacSynchronizationSequence=[item(NominalCardiacTriggerDelayTime=50.0 * t)]),
        lambda t: dict(),
    ],
)
def test_two_phases_of_three_positions_are_two_sources(told_by, tmp_path):
    frames = [(100 * t + k, at(5.0 * k, **told_by(t))) for t in (1, 2) for k in (2, 0, 1)]
    write(tmp_path / "phases.dcm", frames)
    assert sorted(marks(tmp_path)) == [[100, 101, 102], [200, 201, 202]]
    first, second = sorted(scan(tmp_path).sources, key=lambda s: s.frames)
    assert first.paths == second.paths and first.frames == (1, 2, 0) and second.frames == (4, 5, 3)
    assert read_slice(first, 0).value_range[1] <= 103 and read_slice(second, 0).value_range[0] >= 200


def test_a_dimension_of_the_file_s_own_divides(tmp_path):
    frames = []
    for k in range(3):
        for t in (1, 2):
            content = item(DimensionIndexValues=[t, k + 1])
            frames.append((100 * t + k, at(5.0 * k, FrameContentSequence=[content])))
    write(tmp_path / "x.dcm", frames, pointers=(0x00189087, 0x00200032))
    assert marks(tmp_path) == [[100, 101, 102], [200, 201, 202]]


def test_a_file_read_without_scanning_does_not_interleave(tmp_path):
    frames = [(100 * t + k, at(5.0 * k, FrameContentSequence=[item(TemporalPositionIndex=t)]))
              for k in range(3) for t in (1, 2)]  # fmt: skip
    path = write(tmp_path / "x.dcm", frames)
    pieces = read(Source("dicom", (path,), "case", 6))
    assert [int(p.pixels[1, 0]) for p in pieces] == [100, 101, 102, 200, 201, 202]


def test_planes_of_several_directions_are_several_sources(tmp_path):
    frames = []
    for n, orientation in enumerate(([1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1])):
        for k in range(2):
            normal = np.cross(orientation[:3], orientation[3:])
            groups = item(
                PlanePositionSequence=[item(ImagePositionPatient=list(normal * 5.0 * k))],
                PlaneOrientationSequence=[item(ImageOrientationPatient=orientation)],
                PixelMeasuresSequence=[item(PixelSpacing=[1, 1], SliceThickness=3)],
            )
            frames.append((100 * (n + 1) + k, groups))
    write(tmp_path / "x.dcm", frames, shared=item(FrameAnatomySequence=[item(FrameLaterality="U")]))
    assert sorted(marks(tmp_path)) == [[100, 101], [200, 201], [300, 301]]
    assert [s.name for s in scan(tmp_path).sources if s.ascends] == ["x-axial3"]


def test_two_spacings_in_one_file_are_two_sources(tmp_path):
    frames = [
        (100 * t + k, at(5.0 * k, PixelMeasuresSequence=[item(PixelSpacing=[t, t], SliceThickness=5)]))
        for t in (1, 2) for k in range(3)
    ]  # fmt: skip
    write(tmp_path / "x.dcm", frames, shared=item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]))  # fmt: skip
    assert marks(tmp_path) == [[100, 101, 102], [200, 201, 202]]
    assert [read_slice(s, 0).spacing for s in scan(tmp_path).sources] == [(1.0, 1.0), (2.0, 2.0)]


OPT = dict(sop_class=OphthalmicTomographyImageStorage, modality="OPT",
           shared=item(PixelMeasuresSequence=[item(PixelSpacing=[1, 1], SliceThickness=3)]))  # fmt: skip


def test_in_stack_position_orders_what_has_no_position(tmp_path):
    order = (3, 1, 0, 2)
    frames = [(100 + k, item(FrameContentSequence=[item(StackID="1", InStackPositionNumber=k + 1)])) for k in order]
    write(tmp_path / "x.dcm", frames, **OPT)
    assert marks(tmp_path) == [[100, 101, 102, 103]]


def test_in_stack_position_with_times_and_two_stacks(tmp_path):
    frames = [
        (100 * (2 * s + t) + k,
         item(FrameContentSequence=[item(StackID=str(s), InStackPositionNumber=k + 1, TemporalPositionIndex=t)]))
        for s in (1, 2) for k in (1, 0) for t in (1, 2)
    ]  # fmt: skip
    write(tmp_path / "x.dcm", frames, **OPT)
    assert sorted(marks(tmp_path)) == [[300, 301], [400, 401], [500, 501], [600, 601]]


@pytest.mark.parametrize("turned", [False, True])
def test_lines_on_the_fundus_order_a_volume(turned, tmp_path):
    frames = []
    for k in (3, 1, 0, 2):
        line = [0, 10.0 * k, 511, 10.0 * k] if turned else [10.0 * k, 511, 10.0 * k, 0]
        frames.append((100 + k, item(OphthalmicFrameLocationSequence=[item(ReferenceCoordinates=line)])))
    write(tmp_path / "x.dcm", frames, **OPT)
    assert marks(tmp_path) == [[100, 101, 102, 103]]


def test_radial_lines_and_frames_without_any_place_keep_the_stored_order(tmp_path):
    radial = []
    for k in range(4):
        angle = np.pi * k / 4
        line = [float(256 - 200 * np.sin(angle)), float(256 - 200 * np.cos(angle)),
                float(256 + 200 * np.sin(angle)), float(256 + 200 * np.cos(angle))]  # fmt: skip
        radial.append((103 - k, item(OphthalmicFrameLocationSequence=[item(ReferenceCoordinates=line)])))
    write(tmp_path / "radial.dcm", radial, **OPT)
    write(tmp_path / "stored.dcm", [(203 - k, item()) for k in range(4)], **OPT)
    assert marks(tmp_path) == [[103, 102, 101, 100], [203, 202, 201, 200]]


def test_a_file_of_one_acquisition_is_one_source_of_all_frames(tmp_path):
    frames = [(100 + k, at(5.0 * k, FrameContentSequence=[item(DimensionIndexValues=[1, k + 1])])) for k in (1, 0, 2)]
    write(tmp_path / "x.dcm", copy.deepcopy(frames), pointers=(0x00209056, 0x00209057))
    (source,) = scan(tmp_path).sources
    assert (source.frames, source.name, source.n_slices) == (None, "x", 3)
    assert marks(tmp_path) == [[100, 101, 102]]


def test_frames_of_two_eyes_are_two_inputs(tmp_path):
    side = {z: [item(FrameLaterality="L" if z < 10 else "R")] for z in range(0, 20, 5)}
    write(tmp_path / "x.dcm", [(z, at(float(z), FrameAnatomySequence=s)) for z, s in side.items()])
    assert {s.name: s.frames for s in scan(tmp_path).sources} == {"x-sidel": (0, 1), "x-sider": (2, 3)}
