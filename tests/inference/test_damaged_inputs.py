"""Some sixty damaged files of every format through the command: the campaign of tests/campaigns in small."""

import pytest

from tests.campaigns.batch import make_case, run_command, write_tree
from tests.campaigns.judge import good_rows, judge
from tests.campaigns.seeds import seeds


@pytest.mark.slow
def test_damaged_files_are_scored_or_listed_and_change_no_other(tmp_path):
    kinds, options = seeds(), ("--dicom_out", "overlay parametric_map")
    write_tree(tmp_path / "good", kinds)
    alone = run_command(tmp_path / "good", tmp_path / "alone", options)
    assert alone.status == 0, alone.err[-2000:]
    reference = good_rows(tmp_path / "alone")
    assert len(reference) == 17 and all(row["score"] for row in reference)
    cases = [make_case(kinds, 60, number) for number in range(60)]
    write_tree(tmp_path / "in", kinds, cases)
    run = run_command(tmp_path / "in", tmp_path / "out", options)
    assert judge(tmp_path / "in", tmp_path / "out", run, cases, reference) == []
