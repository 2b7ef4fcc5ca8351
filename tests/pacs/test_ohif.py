"""What OHIF shows of our objects, by its pictures. INVAD_OHIF names the built viewer; without, npm fetches it once."""

import os

import numpy as np
import pytest
from pacs.ohif import drawn, make_study, missing, show

VIEWER = os.environ.get("INVAD_OHIF") or None
MISSING = missing(VIEWER)
pytestmark = [
    pytest.mark.pacs,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(bool(MISSING), reason=MISSING),
]


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Every entry of OHIF's study browser by modality and description, for a bump in slice 8 of 12."""
    folder = make_study(tmp_path_factory.mktemp("study"))
    entries = show(folder, tmp_path_factory.mktemp("pictures"), VIEWER).values()
    return {(it.modality, it.description.split(" - ")[0]): it for it in entries}


def test_every_object_is_listed(shown):
    assert set(shown) == {
        ("CT", "Source CT"),
        ("CT", "Anomaly overlay"),
        ("OT", "Anomaly heatmap"),
        ("PMAP", "Anomaly map"),
        ("SEG", "Anomaly region"),
        ("SEG", "Anomaly map, fractional"),
        ("PR", "Anomaly contour"),
        ("PR", "Anomaly map over source"),
        ("SR", "Anomaly report"),
    }


@pytest.mark.parametrize("entry", [("PMAP", "Anomaly map"), ("SEG", "Anomaly region"), ("CT", "Anomaly overlay")])
def test_colour_appears_where_the_bump_is_and_nowhere_else(entry, shown):
    it, source = shown[entry], shown["CT", "Source CT"]
    assert it.problem is None and source.problem is None
    assert np.abs(np.subtract(it.peak, source.peak)).max() <= 2
    colour = drawn(it, source)[80:-80, 80:-80]  # without the text of the corners
    row, column = np.subtract(source.peak, 80)
    assert colour[row - 30 : row + 31, column - 30 : column + 31].mean() > 0.9
    rows, columns = np.nonzero(colour)
    assert np.hypot(rows - row, columns - column).max() < 100  # 60 pixels of the source, 1.45 of the picture each


def test_the_capture_shows_its_colours(shown):
    it = shown["OT", "Anomaly heatmap"]
    assert it.problem is None
    assert (np.ptp(it.viewport[60:-60, 60:-200].astype(int), axis=2) > 40).sum() > 1000  # beside the colour bar


@pytest.mark.parametrize(
    "entry",
    [("SEG", "Anomaly map, fractional"), ("PR", "Anomaly contour"), ("PR", "Anomaly map over source"),
     ("SR", "Anomaly report")],
)  # fmt: skip
def test_what_is_not_shown_is_said(entry, shown):
    assert shown[entry].problem  # once OHIF shows it, the table in docs/dicom.md is to be changed
