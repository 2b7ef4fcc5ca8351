"""Every dialect of BMAD's folders is read in the one right way; what can be read in two is refused with its paths."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from invad_med.data.bmad import TreeError, datalist, inspect_tree, read_tree
from invad_med.data.published_sets import all_published_sets

BRAIN = {
    "readme": {
        "Brain/train/good/img": "abc",
        "Brain/valid/good/img": "d",
        "Brain/valid/Ungood/img": "ef",
        "Brain/valid/Ungood/anomaly_mask": "ef",
        "Brain/test/good/img": "ghi",
        "Brain/test/Ungood/img": "jk",
        "Brain/test/Ungood/anomaly_mask": "jk",
    },
    "anomalib": {
        "Brain/train/good": "abc",
        "Brain/valid/good/img": "d",
        "Brain/valid/Ungood/img": "ef",
        "Brain/valid/Ungood/label": "ef",
        "Brain/test/good/img": "ghi",
        "Brain/test/Ungood/img": "jk",
        "Brain/test/Ungood/label": "jk",
    },
    "config": {  # the four of its forms that have masks or another split name
        "Liver_AD/hist_DIY/train/good": "abc",
        "Liver_AD/hist_DIY/valid/img/good": "d",
        "Liver_AD/hist_DIY/valid/img/Ungood": "ef",
        "Liver_AD/hist_DIY/valid/label/Ungood": "ef",
        "Liver_AD/hist_DIY/test/img/good": "ghi",
        "Liver_AD/hist_DIY/test/img/ungood": "jk",
        "Liver_AD/hist_DIY/test/label/ungood": "jk",
    },
    "config RESC": {
        "RESC/Train/train/good": "abc",
        "RESC/Val/val/good": "d",
        "RESC/Val/val/Ungood": "ef",
        "RESC/Val/val_label/Ungood": "ef",
        "RESC/Test/test/good": "ghi",
        "RESC/Test/test/Ungood": "jk",
        "RESC/Test/test_label/good": "ghi",
        "RESC/Test/test_label/Ungood": "jk",
    },
    "config OCT2017": {
        "OCT2017/train/good": "abc",
        "OCT2017/val/good/img": "d",
        "OCT2017/val/Ungood/img": "ef",
        "OCT2017/test/good/img": "ghi",
        "OCT2017/test/Ungood/img": "jk",
    },
    "config flat": {
        "camelyon16_256/train/good": "abc",
        "camelyon16_256/valid/good": "d",
        "camelyon16_256/valid/ungood": "ef",
        "camelyon16_256/test/good": "ghi",
        "camelyon16_256/test/ungood": "jk",
    },
}
COUNTS = {"train": {"good": 3}, "valid": {"good": 1, "Ungood": 2}, "test": {"good": 3, "Ungood": 2}}
GOOD = BRAIN["anomalib"]


def plant(root: Path, tree: dict[str, str | list[str]], suffix=".png", size=(6, 4)) -> Path:
    for folder, names in tree.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            Image.new("L", size, 7).save(root / folder / f"{name}{suffix}", format="PNG")
    return root


@pytest.mark.parametrize("form", BRAIN)
def test_dialects(tmp_path, form):
    (found,) = read_tree(plant(tmp_path, BRAIN[form]))
    assert found.dialect == form.split()[0]
    assert {s: {c: n["images"] for c, n in classes.items()} for s, classes in found.splits.items()} == COUNTS
    masked = form not in ("config OCT2017", "config flat")
    assert found.splits["test"]["Ungood"]["masks"] == (2 if masked else 0)
    assert found.splits["valid"]["good"]["masks"] == 0
    # No mask is ever an image, and each mask is its image's.
    assert not any(set(i.image.parts) & {"label", "anomaly_mask", "val_label"} for i in found.items)
    assert all(i.mask is None or (i.mask.stem == i.image.stem and i.mask != i.image) for i in found.items)
    names = {"config": "liver", "config RESC": "resc", "config OCT2017": "oct2017", "config flat": "histopathology"}
    assert found.name == names.get(form, "brain")
    assert any("published" in n for n in found.notes)


def test_several_sets_at_once_and_a_custom_one(tmp_path):
    plant(tmp_path, {k.replace("Brain", "mine"): v for k, v in GOOD.items()})
    plant(tmp_path, BRAIN["config RESC"])
    assert {d.root.name: d.name for d in read_tree(tmp_path)} == {"RESC": "resc", "mine": "custom"}
    with pytest.raises(TreeError, match="holds 2 data sets, name one"):
        datalist(tmp_path, "test")
    assert any("not in the table" in n for n in read_tree(tmp_path / "mine")[0].notes)


def test_stray_files_upper_case_and_missing_valid(tmp_path):
    plant(tmp_path, {k: v for k, v in GOOD.items() if "valid" not in k}, suffix=".PNG")
    for stray in ("Thumbs.db", ".DS_Store", "._a.png", "notes.txt"):
        (tmp_path / "Brain/train/good" / stray).write_bytes(b"x")
    (tmp_path / "__MACOSX/Brain/train/good").mkdir(parents=True)
    (found,) = read_tree(tmp_path)
    assert found.splits["train"] == {"good": {"images": 3, "masks": 0}}
    assert "valid" not in found.splits and found.splits["test"]["Ungood"] == {"images": 2, "masks": 2}
    assert datalist(tmp_path, "valid") == []


def changed(**changes: str | list[str] | None) -> dict[str, str | list[str]]:
    tree = {**GOOD, **{f"Brain/{k}": v for k, v in changes.items()}}
    return {k: v for k, v in tree.items() if v is not None}


MALFORMED = {
    "two mask folders": (
        changed(**{"test/Ungood/anomaly_mask": "jk"}),
        "more than one mask folder",
        ["label", "anomaly_mask"],
    ),
    "a mask folder of another dialect": (
        changed(**{"valid/Ungood/label": None, "valid/Ungood/anomaly_mask": "ef"}),
        "two dialects at once",
        ["label", "anomaly_mask"],
    ),
    "train in two dialects": (changed(**{"train/good/img": "xyz"}), "more than one image folder", ["train/good/img"]),
    "train of README, test of anomalib": (
        changed(**{"train/good": None, "train/good/img": "abc"}),
        "two dialects at once",
        ["train/good/img"],
    ),
    "valid and val": (changed(**{"val/good/img": "d"}), "more than one valid folder", ["valid", "val"]),
    "Ungood and ungood": (changed(**{"test/ungood/img": "m"}), "more than one image folder", ["Ungood", "ungood"]),
    "only valid": ({k: v for k, v in GOOD.items() if "valid" in k}, "neither train nor test", ["Brain"]),
    "no split": ({"Brain/good": "a", "Brain/Ungood": "b"}, "neither train nor test", []),
    "mask without image": (changed(**{"test/Ungood/label": "jkz"}), "mask without image", ["label/z.png"]),
    "image without mask": (changed(**{"test/Ungood/label": "j"}), "image without its mask", ["img/k.png"]),
    "empty mask folder": (changed(**{"test/Ungood/label": ""}), "image without its mask", ["img/j.png", "img/k.png"]),
    "no mask folder in one split": (
        changed(**{"test/Ungood/label": None}),
        "image without its mask",
        ["img/j.png", "img/k.png"],
    ),
    "unknown folder": (changed(**{"test/Ungood/masks": "jk"}), "a folder that no layout has", ["Ungood/masks"]),
    "same set twice": (
        GOOD | {k.replace("Brain", "BraTS2021_slice"): v for k, v in GOOD.items()},
        "brain is there more than once",
        ["Brain", "BraTS2021_slice"],
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_trees_are_refused_with_the_paths(tmp_path, case):
    tree, reason, paths = MALFORMED[case]
    plant(tmp_path, tree)
    with pytest.raises(TreeError, match=reason) as refusal:
        read_tree(tmp_path)
    assert all(path in str(refusal.value) for path in paths)
    assert "train/good[/img]" in str(refusal.value)
    problems = [p for d in inspect_tree(tmp_path) for p in d.problems]
    assert any(reason in p.reason and p.paths for p in problems)


def test_mask_of_another_size_is_refused(tmp_path):
    plant(tmp_path, GOOD)
    Image.new("L", (5, 4)).save(tmp_path / "Brain/test/Ungood/label/j.png")
    with pytest.raises(TreeError, match=r"another size \(5x4\) than its image \(6x4\).*label/j.png"):
        datalist(tmp_path, "train")


def test_images_that_training_could_not_read_are_refused(tmp_path):
    plant(tmp_path, GOOD)
    Image.new("L", (6, 4)).save(tmp_path / "Brain/test/Ungood/img/m.bmp")
    with pytest.raises(TreeError, match=r"convert them to PNG.*img/m\.bmp"):
        read_tree(tmp_path)


def test_a_link_back_up_ends(tmp_path):
    plant(tmp_path, GOOD)
    (tmp_path / "Brain/test/loop").symlink_to(tmp_path / "Brain/test", target_is_directory=True)
    with pytest.raises(TreeError, match="a folder that no layout has"):
        read_tree(tmp_path)


def test_manifest_names_the_data_set_and_scopes_its_groups(tmp_path):
    plant(tmp_path, {k.replace("Brain", "x"): v for k, v in GOOD.items()})
    (tmp_path / "x/manifest.json").write_text('{"dataset": "brain"}')
    (tmp_path / "x/manifest.csv").write_text("split,class,name,tissue,tile_cluster\ntest,Ungood,j,lung,7\n")
    (found,) = read_tree(tmp_path)
    assert found.name == "brain" and {i.image.stem: i.group for i in found.items}["j"] == "lung/7"


@pytest.mark.parametrize(
    ("folder", "manifest", "expected"),
    [
        ("Chest_NIH", None, ("custom", None, None)),
        ("Chest_NIH", '{"modality": "chest"}', ("custom", None, "chest")),
        ("phantom", None, ("phantom", None, "phantom")),
        ("brain_mri", None, ("brain", None, "brain")),  # a modality's word, no set that was published
        ("Brain_AD", None, ("brain", "brain", "brain")),
        ("Brain_AD", '{"modality": "Brain"}', ("brain", "brain", "brain")),
        ("Brain_AD", '{"modality": "phantom"}', ("custom", None, "phantom")),  # the statement wins
        ("Brain_AD", '{"dataset": "custom"}', ("custom", None, None)),
        ("x", '{"dataset": "custom", "modality": "liver"}', ("custom", None, "liver")),
        ("x", '{"dataset": "RESC"}', ("resc", "resc", "resc")),
        ("resc", "not JSON", ("resc", "resc", "resc")),
        ("resc", '["of another program"]', ("resc", "resc", "resc")),
    ],
)
def test_what_a_set_is_called_and_shows(tmp_path, folder, manifest, expected):
    plant(tmp_path, {k.replace("Brain", folder): v for k, v in GOOD.items()})
    if manifest:
        (tmp_path / folder / "manifest.json").write_text(manifest)
    (found,) = read_tree(tmp_path)
    published, modality = (row.name if row else None for row in (found.published, found.modality))
    assert (found.name, published, modality) == expected
    assert any('{"modality": "NAME"} into its manifest.json' in note for note in found.notes) == (modality is None)


def test_a_links_name_states_what_the_set_shows(tmp_path):
    """For data that nobody may write to: a folder of links, each named as what its target shows."""
    plant(tmp_path, {k.replace("Brain", "data/mine"): v for k, v in GOOD.items()})
    (tmp_path / "root").mkdir()
    (tmp_path / "root/liver").symlink_to(tmp_path / "data/mine", target_is_directory=True)
    assert [d.modality.name for d in read_tree(tmp_path / "root")] == ["liver"]
    assert [d.modality.name for d in read_tree(tmp_path / "root/liver")] == ["liver"]
    assert [d.modality for d in read_tree(tmp_path / "data")] == [None]


def test_a_modality_that_there_is_not_is_refused(tmp_path):
    plant(tmp_path, GOOD)
    (tmp_path / "Brain/manifest.json").write_text('{"modality": "brian"}')
    with pytest.raises(TreeError, match=r"'brian' is none of brain.* \(did you mean brain\?\): \S*manifest.json"):
        read_tree(tmp_path)


def test_several_sets_of_one_modality_may_lie_side_by_side(tmp_path):
    for name in ("a", "b"):
        plant(tmp_path, {k.replace("Brain", name): v for k, v in GOOD.items()})
        (tmp_path / name / "manifest.json").write_text('{"modality": "brain"}')
    assert [(d.root.name, d.modality.name, d.problems) for d in read_tree(tmp_path)] == [
        ("a", "brain", ()), ("b", "brain", ()),
    ]  # fmt: skip


def test_counts_say_whether_a_set_is_the_published_one(tmp_path, monkeypatch):
    plant(tmp_path, GOOD)
    assert not any(read_tree(tmp_path)[0].is_as_published(split) for split in COUNTS)
    row = replace(all_published_sets()["brain"], counts={**COUNTS, "train": {"good": 4}})
    monkeypatch.setitem(all_published_sets(), "brain", row)
    (found,) = read_tree(tmp_path)
    assert [found.is_as_published(split) for split in ("train", "valid", "test")] == [False, True, True]
    plant(tmp_path, {"Brain/valid/good/img": "z"})
    assert not read_tree(tmp_path)[0].is_as_published("valid")


def test_names_are_compared_in_unicodes_composed_form(tmp_path):
    plant(tmp_path, changed(**{"test/Ungood/img": ["fa\u0308lle"], "test/Ungood/label": ["f\u00e4lle"]}))
    lines = "split,class,name,patient\ntest,Ungood,f\u00e4lle.png,P1\n"
    (tmp_path / "Brain/manifest.csv").write_text(lines, encoding="utf-8")
    (item,) = (i for i in read_tree(tmp_path)[0].items if i.split == "test" and i.label)
    assert item.mask is not None and item.mask.parent.name == "label" and item.group == "P1"
    assert item.mask.name != item.image.name
    plant(tmp_path, {"Brain/test/Ungood/img": ["f\u00e4lle"]})
    with pytest.raises(TreeError, match="one name, several files"):
        read_tree(tmp_path)


def test_lossy_masks_are_noted(tmp_path):
    plant(tmp_path, GOOD)
    assert not any("JPEG" in note for note in read_tree(tmp_path)[0].notes)
    for name in ("j.png", "k.png"):  # by their content, not by their names
        Image.new("L", (6, 4), 255).save(tmp_path / "Brain/test/Ungood/label" / name, format="JPEG")
    (note,) = (note for note in read_tree(tmp_path)[0].notes if "JPEG" in note)
    assert note.startswith("2 masks of test are JPEG, which is lossy") and "j.png" not in note


def test_not_a_folder(tmp_path):
    with pytest.raises(TreeError, match=r"not a folder.*nowhere"):
        read_tree(tmp_path / "nowhere")
    with pytest.raises(TreeError, match="neither train nor test"):
        read_tree(tmp_path)


def test_datalist_has_what_monai_needs(tmp_path):
    plant(tmp_path, GOOD)
    (tmp_path / "Brain/manifest.csv").write_text("split,class,name,patient\ntest,Ungood,j,P1\ntest,good,g.png,P2\n")
    test = datalist(tmp_path, "test")
    assert [(Path(i["image"]).stem, i["label"], bool(i["mask"]), i["group"]) for i in test] == [
        ("g", 0, False, "P2"),
        ("h", 0, False, ""),
        ("i", 0, False, ""),
        ("j", 1, True, "P1"),
        ("k", 1, True, ""),
    ]
    assert all(type(v) in (str, int) for i in test for v in i.values())
    assert [i["label"] for i in datalist(tmp_path / "Brain", "val", good_only=True)] == [0]
    with pytest.raises(TreeError, match="must be train, valid or test, not 'dev'"):
        datalist(tmp_path, "dev")


SPELT = {
    "as folders are": "split,class,name,patient\nval,UNGOOD,e,P1\nTest,ungood,j,P1\n",
    "by a German spreadsheet": "split;class;name;patient\nvalid;Ungood;e;P1\ntest;Ungood;j;P1\n",
    "with tabs, capitals and spaces": "Split\tName\t Patient \nvalid\te.png\tP1\ntest\t j\tP1 \n",
    "by class": "class,name,patient\nungood,e,P1\nungood,j,P1\n",
}


@pytest.mark.parametrize("spelling", SPELT)
def test_a_manifest_is_read_however_it_is_spelt(tmp_path, spelling):
    plant(tmp_path, GOOD)
    (tmp_path / "Brain/manifest.csv").write_text(SPELT[spelling])
    (found,) = read_tree(tmp_path)
    assert {i.image.stem for i in found.items if i.group == "P1"} == {"e", "j"}
    assert any("1 groups (patients) are in more than one split" in n for n in found.notes)
    assert any(n.startswith("manifest.csv names no patient of 9 images: ") for n in found.notes)


def test_a_manifest_without_patients_is_noted(tmp_path):
    plant(tmp_path, GOOD)
    (tmp_path / "Brain/manifest.csv").write_text("file,subject\nj.png,P1\n")
    (found,) = read_tree(tmp_path)
    assert any(n.startswith("manifest.csv names no patients: it has no column name") for n in found.notes)


def test_a_manifest_that_gives_one_image_two_patients_is_refused(tmp_path):
    plant(tmp_path, GOOD)
    (tmp_path / "Brain/manifest.csv").write_text("name,patient\ntrain/good/a.png,P1\ntest/good/a.png,P2\n")
    with pytest.raises(TreeError, match=r"row 3 gives another group to images of a name above; .*manifest\.csv"):
        read_tree(tmp_path)


@pytest.mark.parametrize(
    ("columns", "cells", "expected"),
    [
        ("position,slice,n_slices", ["0.25,7,8", "1,0,8", "1.01,0,8", "top,0,8"], [0.25, 1.0, None, None]),
        ("slice,n_slices", ["0,20", "19,20", "20,20", "3,0"], [0.025, 0.975, None, None]),
        ("slice,n_slices", ["0,20", ",20", "3,", "nan,4"], [0.025, None, None, None]),
        ("slice", ["0", "1", "2", "3"], [None] * 4),
    ],
)
def test_where_a_slice_lies(tmp_path, columns, cells, expected):
    plant(tmp_path, GOOD)
    rows = [f"train,good,{name},P1,{said}" for name, said in zip("abc", cells, strict=False)]
    rows.append(f"test,Ungood,j,P2,{cells[3]}")
    (tmp_path / "Brain/manifest.csv").write_text("\n".join([f"split,class,name,patient,{columns}", *rows]))
    (found,) = read_tree(tmp_path)
    positions = {item.image.stem: item.position for item in found.items}
    assert [positions[name] for name in "abcj"] == [pytest.approx(p) if p is not None else None for p in expected]
    assert positions["g"] is None
    wrong = sum(p is None and all(cell.split(",")) for p, cell in zip(expected, cells, strict=True))
    note = f"manifest.csv gives {wrong} images a position that is no number from 0 to 1: taken as unknown"
    assert (note in found.notes) == (wrong > 0 and columns != "slice")


def test_one_image_in_two_places_is_nowhere(tmp_path):
    plant(tmp_path, GOOD)
    (tmp_path / "Brain/manifest.csv").write_text("name,patient,position\na,P1,0.1\na,P1,0.2\nb,P1,0.3\nb,P1,0.3\n")
    positions = {item.image.stem: item.position for item in read_tree(tmp_path)[0].items}
    assert positions["a"] is None and positions["b"] == 0.3


def test_a_patient_in_two_splits_is_noted(tmp_path):
    plant(tmp_path, GOOD)
    (tmp_path / "Brain/manifest.csv").write_text("split,name,patient\ntrain,a,P1\ntest,j,P1\n")
    assert any("1 groups (patients) are in more than one split" in n for n in read_tree(tmp_path)[0].notes)


def test_published_counts_add_up():
    """Totals of BMAD's table."""
    totals = {"brain": 11298, "liver": 3201, "resc": 6217, "oct2017": 27315, "chest": 26684, "histopathology": 7321}
    for name, total in totals.items():
        published = all_published_sets()[name]
        assert sum(n for split in published.counts.values() for n in split.values()) == total
        assert published.sources and published.licence and published.obtain and published.archive
        assert len(published.image_size) == 2


@pytest.mark.shared
def test_the_six_development_sets():
    root = Path(os.environ.get("INVAD_SHARED", Path(__file__).parents[2] / "../shared")) / "data"
    found = {d.root.name: d for d in read_tree(root)}
    assert len(found) == 6 and all(d.modality is None and d.published is None for d in found.values()), "none is BMAD"
    assert all(d.dialect == "anomalib" and all(i.group for i in d.items) for d in found.values())
    assert not any("more than one split" in n for d in found.values() for n in d.notes)
    assert found["BrainMRI_LGG2"].splits == {
        "train": {"good": {"images": 680, "masks": 0}},
        "valid": {"good": {"images": 29, "masks": 29}, "Ungood": {"images": 29, "masks": 29}},
        "test": {"good": {"images": 109, "masks": 109}, "Ungood": {"images": 101, "masks": 101}},
    }
    assert found["Chest_NIH2"].splits["test"]["Ungood"] == {"images": 62, "masks": 0}
