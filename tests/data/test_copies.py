"""One image under two names is seen where it spoils what is measured, and nothing else is opened for it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.check import check
from invad_med.data.copies import copies


@pytest.fixture
def noise(tmp_path):
    rng = np.random.default_rng(0)
    places = ("train/good", "valid/good/img", "test/good/img", "test/Ungood/img", "test/Ungood/label")
    for folder in places:
        (tmp_path / folder).mkdir(parents=True)
        for name in "ab":
            pixels = rng.integers(1, 255, (8, 8)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{name}.png")
    return tmp_path


def test_equal_bytes_are_copies_and_nothing_else_is_opened(tmp_path, monkeypatch):
    contents = {"a": b"one", "b": b"two", "c": b"one", "d": b"longer", "e": b"", "f": b"", "g": b"one"}
    files = [tmp_path / name for name in contents]
    for path in files:
        path.write_bytes(contents[path.name])
    opened = []
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: opened.append(path.name) or read(path))
    assert [[p.name for p in same] for same in copies(files)] == [["a", "c", "g"]]
    assert sorted(opened) == ["a", "b", "c", "g"]


@pytest.mark.parametrize(
    ("copy", "note"),
    [
        ("test/good/img/x.png", "1 images are in more than one split, under names of their own"),
        ("test/Ungood/img/x.png", "1 images are both good and Ungood, under names of their own"),
        ("train/good/x.png", "1 images are in one split more than once, under names of their own"),
    ],
)
def test_check_names_copies(noise, copy, note):
    first = next((noise / "train/good").glob("*.png"))
    (found,) = check(noise)
    assert not any("under names of their own" in n for n in found.notes)
    (noise / copy).write_bytes(first.read_bytes())
    if "Ungood" in copy:
        mask = next((noise / "test/Ungood/label").glob("*.png"))
        (noise / copy.replace("img", "label")).write_bytes(mask.read_bytes())
    (found,) = check(noise)
    assert any(n.startswith(note) and n.endswith(f"{noise / copy}") for n in found.notes)
