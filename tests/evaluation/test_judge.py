"""Figures of a score against the pure functions; groups, one class, no masks."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from invad_med.data.bmad import read_tree
from invad_med.data.modalities import find_modality
from invad_med.evaluation.judge import Scored, judge, upsampled
from invad_med.evaluation.truth import read_truth
from invad_med.metrics import PixelCounts, auroc, average_precision, f1_max, resample_weights

BRAIN = find_modality("brain")


def make(root: Path, good=8, ungood=8, masks=True, patients=True, size=(48, 64)):
    rng, lines = np.random.default_rng(0), ["split,class,name,patient"]
    for kind, count in (("good", good), ("Ungood", ungood)):
        for i in range(count):
            image, mask = rng.integers(0, 120, size, dtype=np.uint8), np.zeros(size, np.uint8)
            if kind == "Ungood":
                image[10:20, 12:30] += 100
                mask[10:20, 12:30] = 255
            (root / "test" / kind / "img").mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(root / "test" / kind / "img" / f"{kind}{i}.png")
            if masks:
                (root / "test" / kind / "label").mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(root / "test" / kind / "label" / f"{kind}{i}.png")
            lines.append(f"test,{kind},{kind}{i},SECRET^{i // 2}")
    if patients:
        (root / "manifest.csv").write_text("\n".join(lines) + "\n")
    return read_truth(read_tree(root)[0], "test", BRAIN)


def scored(truth, seed=0, **thresholds):
    rng = np.random.default_rng(seed)
    maps = rng.gamma(4.0, 0.25, (len(truth.images), 16, 16)).astype(np.float32)
    return Scored(rng.normal(size=len(maps)) + truth.labels, maps, **thresholds)


def test_values_are_those_of_the_pure_functions(tmp_path):
    truth = make(tmp_path / "brain")
    found, weights = scored(truth, threshold=0.5, map_threshold=1.5), resample_weights(4, 200)
    assert truth.has_masks and truth.grouped and truth.groups.max() == 3  # good and Ungood slices of 4 patients
    values = judge(truth, found, weights).values
    assert values["image_auroc"] == pytest.approx(auroc(truth.labels, found.scores))
    assert values["image_ap"] == pytest.approx(average_precision(truth.labels, found.scores))
    assert (values["image_f1max"], values["image_f1max_threshold"]) == pytest.approx(f1_max(truth.labels, found.scores))
    assert values["sensitivity"] == (found.scores[truth.labels == 1] > 0.5).mean()
    assert values["false_positive_rate"] == (found.scores[truth.labels == 0] > 0.5).mean()
    assert "patient_auroc" not in values  # every patient has an abnormal slice
    counts, both, either = PixelCounts(), 0, 0
    for i in range(16):
        mask, inside = truth.mask(i)
        assert inside.sum() == 192 * 256  # 48 x 64, padded to a square
        above = (upsampled(found.maps[i]) > 1.5) & inside
        both, either = both + 2 * (above & mask).sum(), either + above.sum() + mask.sum()
        counts.add(upsampled(found.maps[i]), mask, inside)
    pixel = counts.figures()
    assert [values[k] for k in ("pixel_auroc", "pixel_ap", "pixel_f1max", "aupro")] == [
        pixel[k] for k in ("auroc", "ap", "f1max", "aupro")
    ]
    assert values["dice"] == pytest.approx(both / either)
    seven = ("image_auroc", "image_ap", "image_f1max", "pixel_auroc", "pixel_ap", "pixel_f1max", "aupro")
    assert values["mad7"] == pytest.approx(np.mean([values[k] for k in seven]))


def test_a_replicate_is_the_figure_of_the_resample(tmp_path):
    truth = make(tmp_path / "brain")
    found = scored(truth, map_threshold=1.5)
    weights = np.array([[1.0, 1, 1, 1], [2, 0, 1, 1], [0, 0, 4, 0]])
    judged = judge(truth, found, weights)
    for row, draw in enumerate(weights):
        rows = np.repeat(np.arange(16), draw[truth.groups].astype(int))
        labels, scores = truth.labels[rows], found.scores[rows]
        assert judged.replicates["image_auroc"][row] == pytest.approx(auroc(labels, scores))
        assert judged.replicates["image_f1max"][row] == pytest.approx(f1_max(labels, scores)[0])
        counts = PixelCounts()
        for i in rows:
            mask, inside = truth.mask(i)
            counts.add(upsampled(found.maps[i]), mask, inside)
        for key, name in (("pixel_auroc", "auroc"), ("pixel_ap", "ap"), ("aupro", "aupro")):
            bound = judged.error_bounds[f"{key} replicate"]
            assert abs(judged.replicates[key][row] - counts.figures()[name]) < 2 * bound + 1e-6, key


def test_what_does_not_exist_is_not_there(tmp_path):
    plain = make(tmp_path / "a" / "brain", masks=False, patients=False)
    judged = judge(plain, scored(plain), resample_weights(16, 50))
    assert set(judged.figures) == {"image_auroc", "image_ap", "image_f1max", "image_f1max_threshold"}
    normal = make(tmp_path / "b" / "brain", ungood=0, masks=False, patients=False)
    judged = judge(normal, scored(normal, threshold=0.0), resample_weights(8, 50))
    assert set(judged.figures) == {"false_positive_rate"}


def test_patients_are_judged_where_they_differ(tmp_path):
    truth = make(tmp_path / "brain", good=16, ungood=8)  # 8 patients, 4 of them without an abnormal slice
    judged = judge(truth, scored(truth), resample_weights(8, 200))
    assert judged.groups == 8 and 0 <= judged.values["patient_auroc"] <= 1
