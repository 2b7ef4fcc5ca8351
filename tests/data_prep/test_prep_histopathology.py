"""Whole-slide TIFF to tiles: by listed centres, by tissue and annotation, in bounded memory."""

import json
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from data_prep import histopathology
from data_prep.layout import PrepError
from data_prep.slides import Slide, grid_tiles

pytest.importorskip("openslide")
tifffile = pytest.importorskip("tifffile")

PINK, PURPLE, GLASS = (230, 160, 200), (120, 60, 140), (243, 243, 243)


def paint(width=2048, height=1536):
    """Glass with tissue in columns 512..1535 and rows 256..1279, a tumour in its upper left 512 x 512."""
    slide = np.full((height, width, 3), GLASS, np.uint8)
    slide[256:1280, 512:1536] = PINK
    slide[256:768, 512:1024] = PURPLE
    noise = np.random.default_rng(0).integers(0, 8, (height, width, 1), np.uint8)
    return slide + noise  # so that a tile's place can be told


def save_pyramid(path, pixels, levels=3):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path) as tiff:
        for level in range(levels):
            step = 4**level
            tiff.write(
                pixels[::step, ::step], tile=(256, 256), compression="deflate", photometric="rgb",
                subfiletype=int(level > 0),
            )  # fmt: skip


ANNOTATION = """<ASAP_Annotations><Annotations>
<Annotation Name="a" Type="Polygon" PartOfGroup="_0"><Coordinates>
<Coordinate Order="0" X="512" Y="256"/><Coordinate Order="1" X="1024" Y="256"/>
<Coordinate Order="2" X="1024" Y="768"/><Coordinate Order="3" X="512" Y="768"/></Coordinates></Annotation>
<Annotation Name="b" Type="Polygon" PartOfGroup="_2"><Coordinates>
<Coordinate Order="0" X="768" Y="512"/><Coordinate Order="1" X="1024" Y="512"/>
<Coordinate Order="2" X="1024" Y="768"/><Coordinate Order="3" X="768" Y="768"/></Coordinates></Annotation>
</Annotations></ASAP_Annotations>"""


@pytest.fixture(scope="module")
def pictures():
    return {name: np.roll(paint(), i, axis=2) for i, name in enumerate(["normal_001", "test_001", "test_002"])}


@pytest.fixture(scope="module")
def slides(tmp_path_factory, pictures):
    root = tmp_path_factory.mktemp("CAMELYON16")
    for name, pixels in pictures.items():
        save_pyramid(root / ("training/normal" if "normal" in name else "testing/images") / f"{name}.tif", pixels)
    folder = root / "testing/lesion_annotations"
    folder.mkdir()
    (folder / "test_001.xml").write_text(ANNOTATION)
    return root


@pytest.fixture
def source(tmp_path, slides):
    return shutil.copytree(slides, tmp_path / "raw")


@pytest.fixture
def coords(tmp_path):
    lists = {
        "train_good": ["Normal_001,900,900", "Normal_001,1200,800"],
        "valid_good": ["test_001,1300,1000"],
        "valid_bad": ["test_001,700,400", "test_001,640,640"],
        "test_good": ["test_002,1100,1100", "test_002,1100,1100", "test_002,10,20"],
        "test_bad": ["test_001,701,401"],
    }
    (tmp_path / "coords").mkdir()
    for name, lines in lists.items():
        (tmp_path / f"coords/{name}.txt").write_text("\n".join(lines) + "\n")
    return tmp_path / "coords"


def test_bmad_tiles_lie_around_the_listed_centres(proven, source, coords, pictures, pixels):
    found = proven(histopathology.prepare, source, recipe="bmad", coords=coords)
    assert found.name == "histopathology"
    assert found.splits == {
        "train": {"good": {"images": 2, "masks": 0}},
        "valid": {"good": {"images": 1, "masks": 0}, "Ungood": {"images": 2, "masks": 0}},
        "test": {"good": {"images": 2, "masks": 0}, "Ungood": {"images": 1, "masks": 0}},
    }
    for item in found.items:
        name, x, y = item.image.stem.rsplit("_", 2)
        assert item.group == name
        padded = np.pad(pictures[name], ((128, 128), (128, 128), (0, 0)), constant_values=255)
        np.testing.assert_array_equal(pixels(item.image), padded[int(y) : int(y) + 256, int(x) : int(x) + 256])


def test_clean_lists_have_each_tile_once_and_slides_in_one_split(proven, source, coords):
    found = proven(histopathology.prepare, source, recipe="clean", coords=coords)
    where = {}
    for item in found.items:
        where.setdefault(item.group, set()).add(item.split)
    assert where == {"normal_001": {"train"}, "test_001": {"test"}, "test_002": {"test"}}


def test_clean_tiles_by_tissue(proven, source, pixels):
    found = proven(histopathology.prepare, source, recipe="clean", tiles=6)
    where = {item.group: item.split for item in found.items}
    assert where["normal_001"] == "train" and {where["test_001"], where["test_002"]} == {"valid", "test"}
    assert found.splits["train"] == {"good": {"images": 6, "masks": 0}}
    ungood = [item for item in found.items if item.label]
    assert len(ungood) == 3 and {item.group for item in ungood} == {"test_001"}
    assert all(pixels(item.image).shape == (256, 256, 3) for item in found.items)


@pytest.mark.parametrize("levels", [1, 3])
def test_grid_has_tissue_only_and_the_annotation_decides(tmp_path, levels):
    save_pyramid(tmp_path / "a.tif", paint(), levels)
    (tmp_path / "a.xml").write_text(ANNOTATION)
    tissue = {(x, y) for x in range(640, 1536, 256) for y in range(384, 1280, 256)}
    assert set(grid_tiles(("a", tmp_path / "a.tif", None))["good"]) == tissue
    tiles = grid_tiles(("a", tmp_path / "a.tif", tmp_path / "a.xml"))
    assert set(tiles["Ungood"]) == {(640, 384), (896, 384), (640, 640)}  # 896, 640 is excluded from the metastasis
    assert set(tiles["good"]) == tissue - set(tiles["Ungood"])


def test_refusals(tmp_path, source, coords):
    with pytest.raises(PrepError, match="--coords"):
        histopathology.prepare(source, tmp_path / "out", recipe="bmad", progress=False)
    (source / "testing/images/test_002.tif").write_bytes(b"II*\0broken")
    report = histopathology.prepare(source, tmp_path / "out", recipe="bmad", coords=coords, progress=False)
    assert len(report.problems) == 1 and "cannot be opened as a slide" in report.problems[0]
    (coords / "test_bad.txt").write_text("test_001;5;6\n")
    with pytest.raises(PrepError, match=r"test_bad\.txt, line 1: 'test_001;5;6' is not slide,x,y"):
        histopathology.prepare(source, tmp_path / "out", recipe="bmad", coords=coords, progress=False)
    (tmp_path / "b.xml").write_text("<a>")
    with pytest.raises(PrepError, match="no annotation of a slide"):
        grid_tiles(("a", source / "testing/images/test_001.tif", tmp_path / "b.xml"))


# Not getrusage's ru_maxrss: that begins with the peak of the process that started this one.
MEASURE = """
import json, re, sys
from pathlib import Path
from data_prep import histopathology
report = histopathology.prepare(Path(sys.argv[1]), Path(sys.argv[2]), recipe="clean", tiles=1000, progress=False)
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(json.dumps([report.counts, report.problems, int(peak[1]) / 1024]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peak memory is read as Linux states it")
@pytest.mark.parametrize("levels", [1, 4])
def test_a_slide_of_20480_pixels_square_takes_less_than_a_gigabyte(tmp_path, levels):
    """1.26 GB of pixels, with and without coarser levels; the figure is in docs/data.md."""
    side = 20480
    rng = np.random.default_rng(0)
    tissue = (rng.integers(0, 30, (256, 256, 3)) + np.array([190, 120, 170])).astype(np.uint8)
    glass = np.full((256, 256, 3), 243, np.uint8)
    packed = [zlib.compress(tile.tobytes()) for tile in (glass, tissue)]

    def tiles(n):
        for row in range(n):
            for column in range(n):
                yield packed[n // 4 <= row < 3 * n // 4 and n // 4 <= column < 3 * n // 4]

    for name in ("normal_001", "test_001", "test_002"):
        (tmp_path / "raw").mkdir(exist_ok=True)
        with tifffile.TiffWriter(tmp_path / f"raw/{name}.tif", bigtiff=True) as tiff:
            for level in range(levels):
                n = side // 256 // 2**level
                tiff.write(
                    tiles(n), shape=(n * 256, n * 256, 3), dtype=np.uint8, tile=(256, 256), compression="deflate",
                    photometric="rgb", subfiletype=int(level > 0),
                )  # fmt: skip
    with Slide(tmp_path / "raw/test_001.tif") as slide:
        assert slide.size == (side, side)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path / "raw", tmp_path / "out"], capture_output=True, text=True, check=True
    )
    counts, problems, peak = json.loads(done.stdout.splitlines()[-1])
    print(f"peak resident memory, {levels} level(s): {peak:.0f} MiB")
    assert not problems and counts["train"]["good"] == 1000
    assert peak < 1000
