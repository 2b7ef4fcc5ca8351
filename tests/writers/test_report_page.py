"""The page of a run, as a browser without script would read it, and what it hands to the script."""

import base64
import csv
import hashlib
import io
import itertools
import json
from html.parser import HTMLParser

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_results import make_dx
from PIL import Image

from invad_med.data.contrast import judged
from invad_med.data.modalities import find_modality
from invad_med.data.prediction import Prediction, Status
from invad_med.data.provenance import Provenance
from invad_med.data.slices import Problem, Slice, Source
from invad_med.data.study import Study, ranked
from invad_med.data.transforms import to_unit
from invad_med.inference.inputs import list_inputs
from invad_med.inference.pipeline import unreadable
from invad_med.inference.progress import Progress
from invad_med.inference.results import SourceWriter
from invad_med.readers.sources import ReadError, read_source, scan
from invad_med.writers.naming import part_path
from invad_med.writers.report.parts import Part, frame_of, read_part, write_part
from invad_med.writers.report.writer import ReportWriter

LIMIT = 4.0
VOID = {"meta", "input", "img", "link", "br", "hr"}


class Page(HTMLParser):
    """Elements of a page with their attributes, its text, and the texts of script and style."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.words, self.held, self._open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._open += [tag] if tag not in VOID else []

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] in ("script", "style"):
            self.held.append((self._open[-1], data))
        else:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    @property
    def studies(self):
        (data,) = (text for tag, text in self.held if tag == "script" and text.startswith("{"))
        return json.loads(data)["studies"]

    @property
    def links(self):
        return [attributes["href"] for tag, attributes in self.elements if tag == "a"]

    def named(self):
        """Return what the script gets of each study, by the study's name."""
        texts = [w.strip() for w in self.words if w.strip()]
        return {texts[texts.index(number) + 1]: study for number, study in self.studies.items()}


def opened(output, name="report.html"):
    return Page((output / name).read_text(encoding="utf-8"))


def save(path, seed=0, size=(20, 24)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    """Return a folder of pictures, a volume, a file that cannot be read and one that no model is for."""
    for i in range(3):
        save(tmp_path / "in" / "phantom" / f"{i}.png", i)
    save(tmp_path / "in" / "liver" / "other.png")
    volume = np.random.default_rng(7).integers(0, 900, (20, 24, 5)).astype(np.float32)
    volume[:, :, 3] = 0
    nib.save(nib.Nifti1Image(volume, np.diag([2.0, 1.0, 3.0, 1.0])), tmp_path / "in" / "phantom" / "v.nii.gz")
    (tmp_path / "in" / "phantom" / "broken.png").write_bytes(b"no picture")
    return tmp_path / "in"


def go(folder, output, report=ReportWriter(), stop=None, **options):  # noqa: B008
    """Score a folder with numbers drawn by name and index."""
    progress = Progress(output, list_inputs(folder, ["phantom"], "phantom"), **options)
    writer = SourceWriter(progress, None, lambda name: Provenance(modality=name, seed=11), report=report)
    for done, item in enumerate(progress.todo.items):
        if done == stop:
            progress.close()  # as the end of the process does
            return writer
        piece = judged(read_source(item.source)[item.index], item.modality)
        if isinstance(piece, ReadError):
            writer.take(unreadable(item, piece), piece)
            continue
        rng = np.random.default_rng([len(item.source.name), ord(item.source.name[-1]), item.index])
        numbers = {"score": rng.normal(2.0), "threshold": 2.0, "p_value": rng.random(), "paper_score": 1.0}
        numbers["map_threshold"] = LIMIT
        values = rng.random(piece.pixels.shape[:2], dtype=np.float32) * 2 * LIMIT
        done = Prediction(item.source, item.index, Status.SCORED, None, "phantom", item.chosen_by, values, **numbers)
        writer.take(done, piece)
    writer.close()
    return writer


def test_the_numbers_are_those_of_the_table(folder, tmp_path):
    writer = go(folder, tmp_path / "out")
    assert "report.html, overview.png, studies.csv, scores.csv" in writer.summary()
    with (tmp_path / "out" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    page = opened(tmp_path / "out")
    scored = [row for row in rows if row["status"] == "scored"]
    told = [
        (name, s["index"], s["status"], s["score"], s["threshold"], s["p"])
        for name, study in page.named().items()
        for s in study["slices"]
    ]
    assert sorted(t for t in told if t[2] == "scored") == sorted(
        (r["input"], int(r["slice"]), "scored", float(r["score"]), float(r["threshold"]), float(r["p_value"]))
        for r in scored
    )
    above = sum(r["abnormal"] == "True" for r in scored)
    word = "slice" if above == 1 else "slices"
    with (tmp_path / "out" / "studies.csv").open() as file:
        ill = sum(row["abnormal"] == "True" for row in csv.DictReader(file))
    studies = f"{ill} {'study' if ill == 1 else 'studies'} above the threshold of a study"
    assert f"4 studies, {len(scored)} slices scored; {studies}; {above} {word} above the threshold of" in page.text
    assert "2 slices not scored, 1 file not read" in page.text
    for row in rows:
        if row["status"] != "scored":
            slices = f" {int(row['slice']) + 1}" if row["slice"] else ""
            assert f"{row['input']}{slices} {row['status']} {row['reason']}" in page.text
    assert page.text.count("Research use only. Not a medical device, not for diagnosis.") == 1
    assert "seed 11" in page.text and "24 × 20 (rows × columns), 1 × 2 mm" in page.text


def test_studies_are_ranked_by_their_verdict_and_else_by_their_slices(tmp_path):
    def study(name, p_value=None, score=None, threshold=2.0, **rest):
        source = Source("raster", (), name, 1)
        verdict = {"p_value": p_value, "score": score, "threshold": threshold if score is not None else None}
        return Study(name=name, sources=(source,), modality="phantom", slices=1, scored=1, **verdict, **rest)

    studies = [
        study("c", 0.5, 1.0, expected_above=0.05, above=0),
        study("b", 0.01, 2.5),
        study("a", 0.01, 3.0, expected_above=0.05, above=1),
        study("d", withheld="no patients to compare with"),
        study("e", withheld="no patients to compare with"),
        study("f", None, 1.0, None),
    ]
    slices = [
        Prediction(s.sources[0], 0, Status.SCORED, None, "phantom", p_value={"e": 0.2}.get(s.name, 0.9), score=1.5)
        for s in studies
    ]
    ReportWriter().write(tmp_path, ranked(studies, slices), slices, (), tmp_path)
    page = opened(tmp_path)
    assert list(page.named()) == ["a", "b", "c", "f", "e", "d"]
    text = page.text.replace("\xa0", " ")
    assert "Above the threshold: score 3, threshold 2, p = 0.01 " in text
    assert "Not above the threshold: score 1, threshold 2, p = 0.5 " in text
    assert "No threshold: score 1 " in text
    assert "No verdict on the study as a whole (no patients to compare with)" in text
    assert "1 of 1 slice scored, 1 above the threshold of a slice, 0.05 expected by chance" in text
    assert "2 studies above the threshold of a study" in text


def test_a_page_needs_nothing_and_may_fetch_nothing(folder, tmp_path):
    go(folder, tmp_path / "out")
    page = opened(tmp_path / "out")
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "form", "base", "img")
        assert not any(name.startswith("on") or name in ("src", "style", "srcset") for name in attributes)
    assert all(link.startswith("#study-") for link in page.links)
    (policy,) = (a["content"] for t, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    digests = {
        tag: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for tag, text in page.held
        if not text.startswith("{")
    }
    assert {rules["script-src"], rules["style-src"]} == {f"'sha256-{digests[tag]}'" for tag in ("script", "style")}
    assert "url(" not in (tmp_path / "out" / "report.html").read_text()


def test_names_of_files_are_text_and_nothing_else(tmp_path):
    names = ["<img src=x onerror=alert(1)>", "a</script><script>alert(1)<b", '"><b>&amp;', "{{ 7 * 7 }}", "\u2028\x07é"]
    for number, name in enumerate(names):
        save(tmp_path / "in" / "phantom" / f"{name}.png", number)
    (tmp_path / "in" / "<svg onload=alert(1)>.png").write_bytes(b"no picture")
    go(tmp_path / "in", tmp_path / "out")
    page = opened(tmp_path / "out")
    assert {tag for tag, _ in page.elements} & {"img", "b"} == {"b"}  # of the list
    assert sum(tag == "b" for tag, _ in page.elements) == len(names)
    assert sum(tag == "script" for tag, _ in page.elements) == 2 and sum(tag == "svg" for tag, _ in page.elements) == 1
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    shown = {f"phantom/{name}" for name in [*names[:4], " ?é"]}
    assert set(page.named()) == shown and "<svg onload=alert(1)>.png" in page.text


def test_a_name_in_the_data_cannot_end_the_script(tmp_path):
    sources = tuple(Source("raster", (), f"</script><script>alert({i})</script>", 1) for i in range(2))
    slices = [Prediction(s, 0, Status.SCORED, None, "phantom", score=1.0) for s in sources]
    ReportWriter().write(tmp_path, [Study(name="s", sources=sources, slices=2, scored=2)], slices, (), tmp_path)
    page = opened(tmp_path)
    assert [s["source"] for s in page.studies["1"]["slices"]] == [s.name for s in sources]
    assert sum(tag == "script" for tag, _ in page.elements) == 2


def test_without_identity_sources_and_files_are_numbered(folder, tmp_path):
    (folder / "phantom").rename(folder / "Doe_Jane")
    go(folder, tmp_path / "out", ReportWriter(anonymize=True))
    text, page = (tmp_path / "out" / "report.html").read_text(), opened(tmp_path / "out")
    for name in ("Doe", "Jane", "liver/other", "broken", "other.png"):
        assert name not in text
    assert set(page.named()) == {f"study {i}" for i in range(1, 5)}  # the fifth has no model
    assert "source 5 1 no model" in page.text and "file 1 unreadable" in page.text


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("stated", "anonymize", "pictures"), [("YES", True, 0), ("YES", False, 1), ("NO", True, 1)])
def test_without_identity_a_picture_that_declares_text_is_left_out(tmp_path, stated, anonymize, pictures):
    path = make_dx(tmp_path / "in.dcm")
    ds = pydicom.dcmread(path)
    ds.BurnedInAnnotation, ds.PatientName = stated, "Doe^Jane"
    ds.save_as(path)
    (source,) = scan(path).sources
    (piece,) = read_source(source)
    done = Prediction(source, 0, Status.SCORED, None, "chest", score=1.0)
    study, writer = Study(name="in", sources=(source,), slices=1, scored=1), ReportWriter(anonymize)
    part = writer.begin(tmp_path, source, Provenance())
    part.add(done, piece, to_unit(piece, find_modality("chest")))
    part.finish()
    writer.write(tmp_path, [study], [done], (), tmp_path)
    page = opened(tmp_path)
    (shown,) = (s for viewer in page.studies.values() for s in viewer["slices"])
    assert ("picture" in shown) == bool(pictures) and "Doe" not in (tmp_path / "report.html").read_text()


def test_map_and_picture_are_those_of_the_slice():
    source = Source("raster", (), "x", 1)
    unit = np.zeros((200, 160), np.uint8)
    unit[:, :80] = 255
    values = np.zeros((200, 160), np.float32)
    values[150:160, 40:50] = 1.0 * LIMIT
    values[155, 44], values[3, 150] = 9 * LIMIT, np.nan
    piece = Slice(unit.astype(np.float32), source, 0, "8bit", (0, 255), spacing=(1.0, 2.0))
    done = Prediction(source, 0, Status.SCORED, None, "phantom", map=values, map_threshold=LIMIT)
    frame = frame_of(done, piece, to_unit(piece, find_modality("phantom")), values)
    with Image.open(io.BytesIO(base64.b64decode(frame.picture))) as picture:
        assert picture.size == (200, 125)  # square pixels: 200 mm high, 320 mm wide, no larger than the slice
        grey = np.asarray(picture)
    assert grey[:, :95].min() > 250 and grey[:, 105:].max() < 5
    cells = np.frombuffer(base64.b64decode(frame.cells), np.uint8).reshape(frame.rows, frame.columns)
    rows, columns = ([i * n // 64 for i in range(65)] for n in values.shape)
    expected = [
        [np.nanmax(values[r0:r1, c0:c1]) for c0, c1 in itertools.pairwise(columns)]
        for r0, r1 in itertools.pairwise(rows)
    ]
    assert np.abs(cells - np.clip(np.array(expected) / LIMIT * 127.5, 0, 255)).max() <= 0.5 and cells.max() == 255
    assert frame.peak == pytest.approx((44.5 / 160, 155.5 / 200), abs=1e-4)


@pytest.mark.parametrize(
    ("count", "shape"), [(300, (512, 512)), (300, (700, 400, 3)), (3000, (512, 512)), (40, (900, 900))]
)
def test_a_series_stays_below_15_mb_even_if_it_is_noise(count, shape):
    rng, source, drawn = np.random.default_rng(0), Source("raster", (), "x", count), 4
    modality = "histopathology" if len(shape) == 3 else "phantom"
    frames = []
    for i in range(drawn):
        piece = Slice(rng.integers(0, 256, shape).astype(np.uint8), source, i, "8bit", (0, 255))
        values = rng.random(shape[:2], dtype=np.float32)
        done = Prediction(source, i, Status.SCORED, None, modality, map_threshold=0.5, score=1 / 3)
        frames.append(frame_of(done, piece, to_unit(piece, find_modality(modality)), values))
    entry = {"index": 299, "status": "scored", "score": -1.23456, "threshold": 1.23456, "p": 0.123456, "reason": None}
    each = [len(f.picture) + len(f.cells) + len(json.dumps(entry)) + 100 for f in frames]
    assert max(each) * count < 14_900_000
    with Image.open(io.BytesIO(base64.b64decode(frames[0].picture))) as picture:
        assert max(picture.size) == {40: 384, 300: 256, 3000: 80}[count]


@pytest.mark.parametrize("stop", [0, 2, 3, 5, 7])
def test_the_page_of_a_run_that_was_cut_is_that_of_one_that_was_not(folder, tmp_path, stop):
    go(folder, tmp_path / "whole")
    go(folder, tmp_path / "cut", stop=stop)
    assert not (tmp_path / "cut" / "report.html").exists()
    go(folder, tmp_path / "cut")
    assert (tmp_path / "cut" / "report.html").read_bytes() == (tmp_path / "whole" / "report.html").read_bytes()


@pytest.mark.parametrize("damage", ["cut", "other", "short map", "gone"])
def test_a_broken_part_costs_its_pictures_alone(folder, tmp_path, damage, caplog):
    go(folder, tmp_path / "out")
    path = tmp_path / "out" / "report" / "parts" / "phantom" / "v.json"
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        other = {
            "cut": content[:-9] + b" " * 9,
            "other": b"[]".ljust(len(content)),
            "short map": content.replace(b'"rows":24', b'"rows":25', 1),
        }[damage]
        assert len(other) == len(content) and other != content
        path.write_bytes(other)
    writer = go(folder, tmp_path / "out")
    pictured = {
        name: sum("picture" in s for s in study["slices"]) for name, study in opened(tmp_path / "out").named().items()
    }
    made_anew = damage == "gone"  # as every result that is missing
    assert pictured == {"phantom/0": 1, "phantom/1": 1, "phantom/2": 1, "phantom/v": 4 if made_anew else 0}
    assert ("the pictures of one source cannot be read" in caplog.text) == (not made_anew)
    assert "7 slices scored" in writer.summary()


def test_results_of_a_run_without_a_page_are_listed_without_pictures(folder, tmp_path):
    go(folder, tmp_path / "out", None)
    assert not (tmp_path / "out" / "report.html").exists() and not (tmp_path / "out" / "report").exists()
    save(folder / "phantom" / "new.png", 5)
    go(folder, tmp_path / "out")
    pictured = {name for name, study in opened(tmp_path / "out").named().items() if "picture" in study["slices"][0]}
    assert pictured == {"phantom/new"} and len(opened(tmp_path / "out").studies) == 5
    save(folder / "phantom" / "newer.png", 6)
    go(folder, tmp_path / "out", None)
    assert not (tmp_path / "out" / "report.html").exists()  # it would not know of the new one


def test_an_image_that_was_withheld_is_shown_without_a_map(tmp_path):
    source = Source("raster", (), "x", 1)
    piece = Slice(np.zeros((8, 8), np.float32), source, 0, "8bit", (0, 255))
    withheld = Prediction(source, 0, Status.NO_CONTRAST, "looks like a photograph", "phantom")
    writer = ReportWriter()
    part = writer.begin(tmp_path, source, Provenance())
    part.add(withheld, piece, to_unit(piece, find_modality("phantom")))
    assert part.finish() == part_path(tmp_path, source)
    writer.write(tmp_path, [Study(name="x", sources=(source,), slices=1)], [withheld], (), tmp_path)
    page = opened(tmp_path)
    (shown,) = page.named()["x"]["slices"]
    assert shown["picture"] and not shown["cells"] and shown["reason"] == "looks like a photograph"
    assert "x 1 no contrast looks like a photograph" in page.text and "no study verdict" in page.text


def many(output, count, size=100, several=False):
    """Write parts of so many slices of ``size`` bytes; return studies, of one slice each or one of all, and slices."""
    sources = [Source("raster", (), f"s{i:04d}", 1) for i in range(count)]
    slices = [
        Prediction(s, 0, Status.SCORED, None, "phantom", score=1.0 * i, p_value=1 - i / count)
        for i, s in enumerate(sources)
    ]
    picture = base64.b64encode(bytes(size * 3 // 4)).decode()
    for source in sources:
        frame = {"index": 0, "picture": picture, "rows": 0, "columns": 0, "cells": "", "peak": None}
        path = write_part(Part(), output, source)
        path.write_text(json.dumps(json.loads(path.read_text()) | {"frames": [frame]}))
        assert len(read_part(path).frames) == 1
    if several:
        return [Study(name="all", sources=tuple(sources), slices=count, scored=count)], slices
    return [Study(name=s.name, sources=(s,), slices=1, scored=1) for s in sources], slices


def test_a_run_of_many_studies_is_a_list_of_pages(tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "0009.html").write_text("a user's own")
    studies, slices = many(tmp_path, 1000)
    ReportWriter().write(tmp_path, studies, slices, [Problem(tmp_path / "x.png", "empty file")], tmp_path)
    index = opened(tmp_path)
    assert index.studies == {} and "x.png unreadable empty file" in index.text
    assert index.links == [f"report/{i // 200 + 1:04d}.html#study-{i + 1}" for i in range(1000)]
    names = []
    for number in range(1, 6):
        page = opened(tmp_path / "report", f"{number:04d}.html")
        names += page.named()
        own = [f"#study-{i}" for i in range(200 * number - 199, 200 * number + 1)]
        others = [link for link in page.links if link not in own]
        assert [link for link in page.links if link in own] == own and "../report.html" in others
        assert all((tmp_path / "report" / link).is_file() for link in others) and len(others) == 3 - (number in (1, 5))
    assert names == [study.name for study in studies]
    ReportWriter().write(tmp_path, studies[:300], slices[:300], (), tmp_path)
    assert sorted(p.name for p in (tmp_path / "report").glob("*.html")) == ["0001.html", "0002.html", "0009.html"]
    ReportWriter().write(tmp_path, studies[:30], slices[:30], (), tmp_path)
    assert [p.name for p in (tmp_path / "report").glob("*.html")] == ["0009.html"]
    assert len(opened(tmp_path).studies) == 30


def test_no_page_is_larger_than_15_mb(tmp_path):
    studies, slices = many(tmp_path, 7, 5_000_000)
    ReportWriter().write(tmp_path, studies, slices, (), tmp_path)
    sizes = [p.stat().st_size for p in sorted((tmp_path / "report").glob("*.html"))]
    assert len(sizes) == 4 and max(sizes) < 15_000_000 and (tmp_path / "report.html").stat().st_size < 50_000
    assert all(len(opened(tmp_path / "report", f"{i:04d}.html").studies) == (2 if i < 4 else 1) for i in range(1, 5))


def test_a_study_of_many_images_shows_pictures_of_the_most_abnormal(tmp_path):
    studies, slices = many(tmp_path, 7, 5_000_000, several=True)
    ReportWriter().write(tmp_path, studies, slices, (), tmp_path)
    assert (tmp_path / "report.html").stat().st_size < 15_000_000
    (study,) = opened(tmp_path).studies.values()
    assert [bool(s.get("picture")) for s in study["slices"]] == [False] * 5 + [True] * 2
    assert [s["source"] for s in study["slices"]] == [f"s{i:04d}" for i in range(7)]


def test_a_page_that_cannot_be_written_costs_itself(folder, tmp_path):
    (tmp_path / "out" / "report.html").mkdir(parents=True)
    (tmp_path / "out" / "report" / "parts" / "phantom" / "1.json").mkdir(parents=True)
    writer = go(folder, tmp_path / "out")
    assert writer.incomplete and dict(writer.faults) == {
        "report.html not written (Is a directory)": 1, "report pictures not written (Is a directory)": 1
    }  # fmt: skip
    assert "2 file(s) not written" in writer.summary() and "report.html" not in writer.summary()
    with (tmp_path / "out" / "scores.csv").open() as file:
        reasons = {row["input"]: row["reason"] for row in csv.DictReader(file)}
    assert reasons["phantom/1"] == "report pictures not written (Is a directory)" and not reasons["phantom/0"]


def test_a_page_within_the_input_is_no_image_and_removed_with_the_rest(folder, tmp_path):
    go(folder, folder / "out")
    before = [s.name for s in scan(folder).sources]
    go(folder, folder / "out")
    assert before == ["liver/other", "phantom/0", "phantom/1", "phantom/2", "phantom/v"]
    (folder / "out" / "report" / "mine.json").write_text("{}")
    go(folder, folder / "out", None, overwrite=True)
    left = [p.name for p in (folder / "out").rglob("*") if p.is_file() and p.suffix in (".html", ".json")]
    assert sorted(left) == ["mine.json", "scores.json", "studies.json"]
