"""What processes cost, which commands builds offer, and ratios of builds."""

import os
import sys

import pytest

from invad_med.bench.builds import Build, this_build
from invad_med.bench.children import ChildCost, run_child
from invad_med.bench.growth import grown
from invad_med.bench.record import GrowthRun
from invad_med.bench.startup import COMMANDS, startups


def child(tmp_path, code, **options):
    return run_child([sys.executable, "-c", code], dict(os.environ), tmp_path, tmp_path / "log.txt", **options)


def test_a_process_is_charged_for_its_work_and_its_memory(tmp_path):
    idle = child(tmp_path, "import time; time.sleep(0.5)")
    busy = child(tmp_path, "import time\nwhile time.process_time() < 0.5: pass\nheld = bytearray(200_000_000)")
    assert busy.core_s >= 0.5 > idle.core_s and idle.wall_s >= 0.5
    assert 150 < busy.peak_mb - idle.peak_mb < 250


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system does not say which cores")
def test_a_process_keeps_to_the_cores_that_it_is_given(tmp_path):
    own = os.sched_getaffinity(0)
    child(tmp_path, "import os; print(len(os.sched_getaffinity(0)))", cores=1)
    assert (tmp_path / "log.txt").read_text().split() == ["1"] and os.sched_getaffinity(0) == own


def test_a_failure_says_the_command_and_the_end_of_what_it_printed(tmp_path):
    with pytest.raises(RuntimeError, match=r"ended with 3:\n  no such series"):
        child(tmp_path, "print('no such series'); raise SystemExit(3)")


def test_a_build_without_the_command_is_measured_by_the_bundles(tmp_path):
    (tmp_path / "invad_med").mkdir()
    (tmp_path / "invad_med" / "__init__.py").touch()
    old, new = Build("former", this_build().python, tmp_path), this_build()
    assert not old.offers_score and old.score(tmp_path / "out") == old.main(tmp_path / "out")
    assert new.score(tmp_path / "out", tmp_path)[1:4] == ["-m", "invad_med", "score"]
    assert "OMP_NUM_THREADS" not in new.environment(None) and new.environment(1)["PYTHONPATH"] == str(new.tree)


@pytest.mark.parametrize("python", [True, False])
def test_a_former_build_that_is_not_there_is_refused(tmp_path, python):
    with pytest.raises(FileNotFoundError, match=r"give --former PYTHON TREE"):
        Build("former", this_build().python if python else tmp_path / "python", tmp_path)


def test_ratios_of_starts_are_paired_by_round():
    def costs(*core):
        return [ChildCost(c, c, 100 + c) for c in core]

    score, main = COMMANDS[2:]
    found = startups({
        ("this", score): costs(1, 2, 4),
        ("this", main): costs(2, 4, 8),
        ("former", main): costs(4, 20, 20),
    })  # fmt: skip
    ratios = {(s.build, s.what): s.former_over_this for s in found}
    assert ratios == {("this", score): 5, ("this", main): 2.5, ("former", main): None}
    assert found[0].core_s.p50 == 2 and found[0].peak_mb == 104


def run(build, count, core_s, kind="series", cores=2, threads=1, wall_s=1.0):
    return GrowthRun(build, kind, count, cores, threads, core_s, wall_s, 100.0)


def test_cost_of_one_more_slice_is_free_of_the_start():
    found = grown([
        run("this", 300, 20), run("former", 300, 130), run("this", 100, 10), run("former", 100, 30),
        run("this", 1000, 62), run("this", 100, 99, threads=None), run("this", 10, 1, "files"),
    ])  # fmt: skip
    slopes = {(s.build, s.kind, s.first, s.last): (s.core_ms, s.former_over_this) for s in found.slopes}
    assert slopes == {
        ("this", "series", 100, 300): (50, 10),
        ("this", "series", 300, 1000): (60, None),
        ("former", "series", 100, 300): (500, None),
    }
    assert found.two_cores_over_one is None


def test_two_cores_are_compared_with_one():
    walls = [(1, 10.0), (2, 6.0), (1, 10.0), (2, 8.0), (1, 10.0), (2, 5.0)]
    runs = [run("this", 100, 9, cores=cores, threads=None, wall_s=wall) for cores, wall in walls]
    assert grown(runs).two_cores_over_one == pytest.approx(0.6)
