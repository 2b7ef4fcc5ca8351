"""`python -m invad_med archive`: the results of `score`, each slice once, whatever is killed."""

import contextlib
import functools
import hashlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pydicom
import pytest
from dicom_made import at, write_frames

from invad_med.__main__ import main
from invad_med.bundle import root
from tests.conftest import environment
from tests.shards.conftest import COUNTS, index, merged, score, start

ROWS = sum(COUNTS) + 2


def equal(table, other):
    pd.testing.assert_frame_equal(table, other, check_exact=True)


def until(condition, seconds=60.0):
    """Wait, and return what came true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.005)
    raise AssertionError("waited in vain")


def at_work(process):
    """Workers of a process that scores which have taken a shard, and so are past their start."""
    try:
        numbers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return [int(n) for n in numbers if any(str(p.resolve()).endswith(".lease") for p in opened(n))]
    except OSError:
        return []


def opened(number):
    return Path(f"/proc/{number}/fd").iterdir()


def in_hand(work):
    """Whether a worker has opened a source."""
    return [path for path in (work / "state").glob("*.lease") if re.search(rb'"source": \d', path.read_bytes())]


def test_scores_and_maps_and_verdicts_are_those_of_score(whole, tmp_path):
    assert main(["score", str(whole.folder), "--output_dir", str(tmp_path), "--gate", "false"]) == 3
    theirs = pd.read_csv(tmp_path / "scores.csv").sort_values(["input", "slice"], ignore_index=True)
    table = whole.table.copy()
    ours = pd.read_csv(whole.work / "merged" / "slices.csv").sort_values(["input", "slice"], ignore_index=True)
    assert len(table) == len(theirs) == ROWS and not table.key.duplicated().any()
    columns = ["input", "status", "modality", "chosen_by", "score", "threshold", "abnormal", "p_value", "paper_score"]
    equal(ours[[*columns, "reason"]], theirs[[*columns, "reason"]])
    assert (ours.engine + " " + ours.precision).equals(theirs.computed_by.astype(ours.engine.dtype))
    studies, worklist = (pd.read_csv(p) for p in (tmp_path / "studies.csv", whole.work / "merged" / "worklist.csv"))
    same = ["slices", "scored", "score", "p_value", "threshold", "abnormal", "above", "expected_above", "first_slice"]
    equal(worklist[["input", *same]].rename(columns={"input": "study"}), studies[["study", *same]])
    for name, path in table.dropna(subset="map").groupby("input").map.first().items():
        (theirs_of,) = (tmp_path / "maps").glob(f"{name}.*")
        assert (whole.work / path).read_bytes() == theirs_of.read_bytes()


def test_rows_say_what_they_depend_on(whole):
    scored = whole.table[whole.table.status == "scored"]
    model = hashlib.sha256((Path(root()) / "models" / "phantom.pt").read_bytes()).hexdigest()
    assert set(scored.model) == {model} and set(scored.version) == {sys.modules["invad_med"].__version__}
    assert scored.calibration.str.fullmatch("[0-9a-f]{16}").all() and set(scored.false_positive_rate) == {0.05}
    file = next((whole.folder / "c5").rglob("*.dcm"))
    row = whole.table[whole.table.key == f"{pydicom.dcmread(file).SOPInstanceUID}#1"]
    assert list(row.content) == [hashlib.sha256(file.read_bytes()).hexdigest()]
    damaged = whole.table[whole.table.input == "c6/damaged.png"]
    assert list(damaged.error_class) == ["ReadError"] and damaged.reason.str.len().all()


def test_the_index_states_headers_and_keeps_series_whole(whole):
    table = pd.read_parquet(whole.work / "index.parquet")
    assert len(table) == ROWS and (table.groupby("source").shard.nunique() == 1).all()
    assert table.groupby("shard").size().max() <= 12 and list(table.shard.unique()) == list(
        range(table.shard.max() + 1)
    )
    for row in table[table.kind == "dicom"].itertuples():
        path = Path(os.fsdecode(row.path))
        ds = pydicom.dcmread(path)
        stated = ds.SOPInstanceUID, ds.StudyInstanceUID, ds.Rows, ds.Columns, ds.file_meta.TransferSyntaxUID, 1
        assert stated == (row.instance, row.study_uid, row.rows, row.columns, row.syntax, row.frames)
        assert path.stat().st_size == row.size and ds.InstanceNumber == row.slice + 1


def test_frames_are_counted_as_dicom_does(tmp_path):
    write_frames(tmp_path / "in" / "e.dcm", [(100, at(6)), (200, at(3)), (300, at(0))])
    work = index(tmp_path / "in", tmp_path / "work")
    table = pd.read_parquet(work / "index.parquet")
    assert list(table.slice) == [0, 1, 2] and list(table.frame) == [3, 2, 1]  # from feet to head
    assert score(work, "--no_maps") == 0
    assert list(merged(work).key.str.partition("#")[2]) == ["3", "2", "1"]


def test_a_killed_worker_is_replaced_and_a_killed_run_goes_on(whole, tmp_path):
    work = index(whole.folder, tmp_path / "work")
    run = start(work, "--workers", "2")
    held = until(lambda: at_work(run))[0]
    os.kill(held, signal.SIGSTOP)  # keeps its shard, and leaves the others to be taken
    worker = until(lambda: in_hand(work) and set(at_work(run)) - {held}).pop()
    os.kill(worker, signal.SIGKILL)
    workers = until(lambda: len(both := set(at_work(run)) - {worker}) == 2 and both)
    run.kill()
    os.kill(held, signal.SIGCONT)
    said = run.communicate()[0]
    until(lambda: not any(Path(f"/proc/{w}/stat").exists() and " Z " not in stat_of(w) for w in workers))
    left = len(list((work / "scores").glob("*.parquet"))) if (work / "scores").exists() else 0
    assert "Traceback" not in said and left < 5
    done = start(work, "--workers", "1").communicate()[0]
    assert f"{ROWS} of {ROWS} slices done" in done
    equal(merged(work), whole.table)
    assert not list(work.rglob("*.partial"))


def stat_of(number):
    try:
        return Path(f"/proc/{number}/stat").read_text()
    except OSError:
        return " Z "


def test_two_runs_at_once_share_the_work(whole, tmp_path):
    work = index(whole.folder, tmp_path / "work")
    runs = [start(work, "--workers", "1") for _ in range(2)]
    ends = [(run.communicate(timeout=120)[0], run.returncode) for run in runs]
    assert all(status == 3 and f"{ROWS} of {ROWS} slices done" in said for said, status in ends)
    equal(merged(work), whole.table)


def test_a_source_that_ends_its_worker_three_times_is_set_aside(whole, tmp_path, capsys):
    work = index(whole.folder, tmp_path / "work")
    (tmp_path / "sitecustomize.py").write_text(
        "import os, invad_med.shards.shard as s\n"
        "read = s.read_source\n"
        "die = lambda: os.kill(os.getpid(), 9)\n"
        "s.read_source = lambda source, *last: die() if 'c7' in source.name else read(source, *last)\n"
    )
    paths = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    run = start(work, "--workers", "1", env=environment() | {"PYTHONPATH": paths})
    said = run.communicate(timeout=120)[0]
    assert run.returncode == 3 and said.count("a worker was lost (SIGKILL) and is replaced") == 3
    assert re.search(r"set aside, as workers ended over them: c7/phantom/series-\w+ \(shard \d\)", said)
    table, aside = merged(work), whole.table.input.str.startswith("c7")
    equal(table[~aside], whole.table[~aside])
    assert set(table[aside].status) == {"set aside"} and set(table[aside].error_class) == {"WorkerLost"}
    assert not table[aside].score.notna().any() and not table[aside].study_abnormal.notna().any()
    capsys.readouterr()
    assert main(["archive", "status", str(work)]) == 0
    assert "7 set aside" in (said := capsys.readouterr().out) and "3 times a worker was lost over a shard" in said
    assert score(work, "--retry") == 3
    equal(merged(work), whole.table)


def test_workers_that_end_at_once_end_the_run(whole, tmp_path):
    work = index(whole.folder, tmp_path / "work")
    (tmp_path / "sitecustomize.py").write_text(
        "import os, invad_med.shards.worker as w\nw.LoadedModels = lambda *given: os.kill(os.getpid(), 9)\n"
    )
    paths = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    run = start(work, "--workers", "1", env=environment() | {"PYTHONPATH": paths})
    assert "5 workers in a row were lost with nothing done (SIGKILL)" in run.communicate(timeout=120)[0]
    assert run.returncode == 2


def test_parts_are_disjoint_and_make_the_whole(whole, tmp_path, monkeypatch):
    work = index(whole.folder, tmp_path / "work")
    score(work, "--shard", "1/2")
    first = {path.name for path in (work / "scores").iterdir()}
    assert first == {f"shard-{n:06d}.parquet" for n in range(0, 5, 2)}
    times = {path: path.stat().st_mtime_ns for path in (work / "scores").iterdir()}
    assert main(["archive", "merge", str(work), "--out", str(tmp_path / "m")]) == 2
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert score(work) == 3
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    equal(merged(work), whole.table)


def test_what_is_not_scored_is_not_merged_unless_that_is_meant(whole, tmp_path, capsys):
    work = index(whole.folder, tmp_path / "work")
    merge = ["archive", "merge", str(work), "--out", str(tmp_path / "out")]
    for words in (merge, [*merge, "--partial"]):
        assert main(words) == 2
        assert "5 of 5 shards are not scored: go on with python -m invad_med archive score" in capsys.readouterr().err
    (work / "scores").mkdir()
    shutil.copy(whole.work / "scores" / "shard-000001.parquet", work / "scores")
    assert main([*merge, "--partial"]) == 3
    assert 0 < len(pd.read_parquet(tmp_path / "out" / "slices.parquet")) < ROWS
    shutil.copy(whole.work / "scores" / "shard-000002.parquet", work / "scores" / "shard-000000.parquet")
    assert main([*merge, "--partial"]) == 2
    assert "the rows of shard 0 are not those of the index" in capsys.readouterr().err


def test_rows_of_two_models_never_mix(whole, tmp_path, capsys):
    work = tmp_path / "work"
    shutil.copytree(whole.work, work)
    (work / "scores" / "shard-000000.parquet").unlink()
    other = tmp_path / "other.pt"
    shutil.copy(Path(root()) / "models" / "chest.pt", other)
    for words, message in (
        (
            ["--ckpt_path", str(other)],
            r"the model for brain was \w{12}, now it is none.*index the archive into",
        ),
        (["--false_positive_rate", "0.1"], "false_positive_rate was 0.05, now it is 0.1"),
        (["--hash_keys"], "hash_keys was False, now it is True"),
    ):
        assert score(work, *words) == 2
        assert re.search(message, capsys.readouterr().err)
    assert len(list((work / "scores").iterdir())) == 4


def test_files_that_changed_are_not_scored(whole, tmp_path):
    folder, work = tmp_path / "in", tmp_path / "work"
    shutil.copytree(whole.folder, folder)
    index(folder, work)
    changed, gone = sorted((folder / "c8").rglob("*.dcm"))[3], sorted((folder / "c9").rglob("*.dcm"))[0]
    changed.write_bytes(changed.read_bytes() + b"\0")
    gone.unlink()
    assert score(work) == 3
    table = merged(work)
    touched = table.input.str.startswith(("c8", "c9"))
    equal(table[~touched], whole.table[~touched])
    assert set(table[touched].error_class) == {"Changed"} and len(table) == ROWS
    (work / "scores" / "shard-000000.parquet").unlink()
    for make in (shutil.rmtree, Path.mkdir):  # a drive that is not there leaves its empty mount point
        make(folder)
        assert score(work) == 2
        assert not (work / "scores" / "shard-000000.parquet").exists()


def test_files_that_took_each_others_names_are_not_scored_as_each_other(whole, tmp_path):
    folder, work = tmp_path / "in", tmp_path / "work"
    shutil.copytree(whole.folder / "c5", folder)
    index(folder, work)
    first, second = sorted(folder.rglob("*.dcm"))[:2]
    stats = [os.stat(path) for path in (first, second)]
    first.rename(tmp_path / "first")
    second.rename(first)
    (tmp_path / "first").rename(second)
    assert first.stat().st_size == stats[0].st_size
    for path, stat in zip((first, second), stats, strict=True):
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert score(work) == 3
    table = merged(work)
    assert set(table[~table.input.str.endswith("picture")].error_class) == {"Changed"}


def test_scores_of_another_index_are_not_taken(whole, tmp_path, capsys):
    work = tmp_path / "work"
    shutil.copytree(whole.work, work)
    (work / "index.parquet").unlink()
    words = ["archive", "index", str(whole.folder / "c5"), "--out"]
    assert main([*words, str(work)]) == 2
    assert "holds an index, or scores of one, already" in capsys.readouterr().err
    other = tmp_path / "in"
    shutil.copytree(whole.folder, other)
    for path in other.rglob("*.dcm"):
        ds = pydicom.dcmread(path)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        ds.save_as(path)
    index(other, tmp_path / "other", slices=12)
    shutil.copy(tmp_path / "other" / "index.parquet", work)
    assert main(["archive", "merge", str(work), "--out", str(tmp_path / "out"), "--partial"]) == 2
    assert "are not those of the index" in capsys.readouterr().err


def test_a_full_disk_ends_the_run_and_nothing_else(whole, tmp_path):
    work = index(whole.folder, tmp_path / "work")
    small = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (12000, 12000))  # rows fit, maps do not
    done = start(work, "--workers", "1", preexec_fn=small)
    said = done.communicate(timeout=120)[0]
    assert done.returncode == 2 and "error: File too large" in said and "Traceback" not in said
    assert not any((work / "scores").glob("*"))
    assert score(work) == 3
    equal(merged(work), whole.table)
    assert not list(work.rglob("*.ended")) and not list(work.rglob("*.partial"))


def test_no_identity_appears_unless_it_is_asked_for(whole, tmp_path, capfd):
    work = index(whole.folder, tmp_path / "work")
    score(work, "--hash_keys")
    out = tmp_path / "out"
    assert main(["archive", "merge", str(work), "--out", str(out)]) == 0
    results = {path: path.read_bytes() for path in out.iterdir()}
    files = results | {path: path.read_bytes() for path in (work / "scores").iterdir()}
    files[Path("said")] = "".join(capfd.readouterr()).encode()
    uids = [pydicom.dcmread(p) for p in whole.folder.rglob("*.dcm")]
    identity = {str(u) for ds in uids for u in (ds.SOPInstanceUID, ds.StudyInstanceUID, ds.PatientName)} | {"Made"}
    names = {"c6/", "phantom/", "picture"}  # of folders and files, which can be a patient's
    for words, where in ((identity, files), (names, results)):
        for word in words:
            assert [path.name for path, content in where.items() if word.encode() in content] == [], word
    keys = pd.read_parquet(out / "slices.parquet").key
    assert keys.str.fullmatch("[0-9a-f]{32}#1").sum() == sum(COUNTS) and not keys.duplicated().any()
    worklist = whole.work / "merged" / "worklist.html"
    assert b"1.2.826" not in worklist.read_bytes()


def test_the_worklist_links_into_a_viewer(whole, tmp_path):
    out, url = tmp_path / "out", "https://host/viewer?StudyInstanceUIDs={study}&SeriesInstanceUIDs={series}"
    words = ["archive", "merge", str(whole.work), "--out", str(out)]
    assert main([*words, "--viewer_url", url, "--top", "3"]) == 0
    table = pd.read_csv(out / "worklist.csv")
    assert list(table["rank"]) == list(range(1, len(table) + 1)) and table.p_value.is_monotonic_increasing
    ds = pydicom.dcmread(next((whole.folder / "c7").rglob("*.dcm")))
    mine = table[table.input.str.startswith("c7")]
    address = url.format(study=ds.StudyInstanceUID, series=ds.SeriesInstanceUID)
    assert list(mine.link) == [address]
    page = (out / "worklist.html").read_text()
    assert (page.count("<tr class=") == 3 and f'href="{address.replace("&", "&amp;")}"' in page) or len(mine) == 1
    assert table[table.input.str.endswith("picture")].link.isna().all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["index", "{none}", "--out", "{out}"], "no such file or folder"),
        (["index", "{empty}", "--out", "{out}"], "no image found in"),
        (["index", "{folder}", "--out", "{work}"], "holds an index, or scores of one, already"),
        (["merge", "{work}", "--out", "{out}", "--viewer_url", "https://h/{study:.9}"], "is no address of a study"),
        (["merge", "{work}", "--out", "{out}", "--viewer_url", "https://h/{study!s}"], "is no address of a study"),
        (["score", "{empty}"], "holds no index: make one with python -m invad_med archive index"),
        (["merge", "{work}", "--out", "{out}", "--viewer_url", "javascript:{study}"], "is no address of a study"),
        (["merge", "{work}", "--out", "{out}", "--viewer_url", "https://h/{patient}"], "is no address of a study"),
        (
            ["merge", "{work}", "--out", "{out}", "--viewer_url", "https://a:b@h/{study}"],
            "must hold no user and password",
        ),
        (["score", "{work}", "--shard", "3/2"], "'3/2' is no part such as 3/10"),
        (["score", "{work}", "--workers", "0"], "'0' is no number of at least 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(whole, tmp_path, capsys, words, message):
    (tmp_path / "empty").mkdir()
    places = {"none": tmp_path / "none", "empty": tmp_path / "empty", "folder": whole.folder, "work": whole.work}
    for name, place in {**places, "out": tmp_path / "out"}.items():
        words = [word.replace(f"{{{name}}}", str(place)) for word in words]
    try:
        status = main(["archive", *words])
    except SystemExit as error:
        status = error.code
    assert status == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "out" / "index.parquet").exists()


def test_without_pyarrow_it_says_what_to_install(tmp_path):
    code = (
        "import sys; sys.modules['pyarrow'] = None; from invad_med.__main__ import main; "
        f"raise SystemExit(main(['archive', 'status', {str(tmp_path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.returncode == 2 and 'pip install "invad-med[archive]"' in done.stderr


@pytest.mark.slow
def test_ray_loses_workers_and_no_slice(whole, tmp_path):
    pytest.importorskip("ray")
    work = index(whole.folder, tmp_path / "work")
    run = start(work, "--executor", "ray", "--workers", "1")
    until(lambda: in_hand(work), 200)
    for task in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (task / "cmdline").read_bytes().startswith(b"ray::_task") and str(run.pid) in ancestors(task.name):
                os.kill(int(task.name), signal.SIGKILL)
    said = run.communicate(timeout=300)[0]
    assert run.returncode == 3 and "a worker was lost (WorkerCrashedError) and is replaced" in said
    equal(merged(work), whole.table)


def ancestors(number):
    """Numbers of the processes above one."""
    result = []
    while int(number) > 1:
        number = stat_of(number).rpartition(")")[2].split()[1]
        result.append(number)
    return result
