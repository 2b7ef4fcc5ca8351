"""Rows of an ablation against what is computed by hand; levels are chosen on valid alone; patients all count."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from invad_med.data.bmad import read_dataset
from invad_med.data.transforms import to_image
from invad_med.detection import load_detector
from invad_med.diffusion import invert, reconstruct
from invad_med.evaluation import ablating
from invad_med.evaluation.ablating import Images, Reached, Subject, WayMeasured, draw, read_way
from invad_med.evaluation.ablation import BOTH, NORM, OWN_RULE, PAPER, Group, Kind, Way, rows_of
from invad_med.evaluation.designs import Sample, units
from invad_med.evaluation.judge import upsampled
from invad_med.evaluation.truth import read_truth
from invad_med.readers.sources import read_raster
from invad_med.scoring.rules import DEFAULT_RULE, MENU


@pytest.fixture(scope="module")
def brain(measured_folder):
    """Data set, detector and parts of its images."""
    dataset = read_dataset(measured_folder / "BMAD/Brain_AD")
    of = {(s, y): tuple(i.image for i in dataset.items if (i.split, i.label) == (s, y))
          for s in ("train", "valid", "test") for y in (0, 1)}  # fmt: skip
    images = Images(of["train", 0][:6], of["valid", 0], of["valid", 1], (*of["test", 0], *of["test", 1]))
    return dataset, load_detector(measured_folder / "models/brain.pt"), images


def subject_of(dataset, detector, images):
    return Subject(detector, dataset, dataset.modality, images, units(dataset), "brain", None)


@torch.no_grad()
def encoded(detector, modality, paths):
    """Encodings in half precision and back, as the cache keeps them before they are normalised."""
    batch = torch.from_numpy(np.stack([to_image(read_raster(path), modality, 64) for path in paths]))
    return detector.host.normalise(detector.host.raw(batch).half().float())


def papers(z):
    a = np.sqrt((z.numpy().astype(float) ** 2).sum(1)).reshape(len(z), -1)
    return a.max(1) - a.min(1) + a.sum(1)


def calibrated(z, train):
    """The rule of mean and cell on a grid of 4 x 4, whose cells are positions, by hand."""
    z, train = z.numpy().astype(float), train.numpy().astype(float)
    mean, std = train.mean((0, 2, 3), keepdims=True), train.std((0, 2, 3), ddof=1, keepdims=True)

    def statistics(x):
        lengths = np.sqrt((((x - mean) / std) ** 2).mean(1))
        return np.log(np.stack([lengths.mean((1, 2)), lengths.max((1, 2))], 1))

    normal = statistics(train)
    deviations = (statistics(z) - normal.mean(0)) / normal.std(0)
    return np.linalg.norm(deviations.clip(0), axis=1) + np.minimum(deviations.max(1), 0)


@pytest.mark.parametrize(
    ("way", "pairs"),
    [
        (Way(Kind.FEATURES), []),
        (Way(Kind.PAPER, 3), [(0, 333), (333, 666), (666, 999)]),
        (Way(Kind.OFFICIAL, 3), [(0, 500), (500, 999), (999, None)]),
    ],
)
def test_a_walks_figures_are_those_by_hand(brain, way, pairs):
    dataset, detector, images = brain
    measured = subject_of(*brain).measure(way, [*BOTH, NORM], "inputs")
    host = detector.host
    with torch.no_grad():
        train, z = (
            invert(host.eps, encoded(detector, dataset.modality, part), pairs, host.alphas_cumprod)
            if pairs
            else encoded(detector, dataset.modality, part)
            for part in (images.train, images.test)
        )
    label = [0] * 10 + [1] * 10
    scores = {PAPER: papers(z), NORM: z.square().sum((1, 2, 3)).sqrt(), DEFAULT_RULE: calibrated(z, train)}
    for score, values in scores.items():
        assert measured.reached[score].samples["image_auroc"].value == pytest.approx(roc_auc_score(label, values))
        assert measured.reached[score].evaluations == len(pairs)
    truth = read_truth(dataset, "test", dataset.modality)
    place = {path: i for i, path in enumerate(truth.images)}
    masks = np.stack([truth.mask(place[path])[0] for path in images.test])
    maps = np.stack([upsampled(a) for a in z.norm(dim=1).numpy()])
    expected = average_precision_score(masks.ravel(), maps.ravel())
    assert measured.reached[PAPER].samples["pixel_ap"].value == pytest.approx(expected, abs=1e-3)
    assert measured.images == 20 and measured.encode_ms > 0


def test_the_level_of_a_reconstruction_is_chosen_on_valid_whatever_test_would_prefer(brain):
    dataset, detector, images = brain
    train = tuple(i.image for i in dataset.items if i.split == "train")
    images = Images(train[:2], train[2:9], train[9:], images.test[:10])  # of noise: no level is the best everywhere
    host, way = detector.host, Way(Kind.RECONSTRUCTION, 2)
    noise = torch.randn((host.channels, 4, 4), generator=torch.Generator().manual_seed(0))

    def by_level(paths):
        x = encoded(detector, dataset.modality, paths)
        with torch.no_grad():
            ends = {r: reconstruct(host.eps, x, noise.expand_as(x), r, 2, host.alphas_cumprod) for r in ablating.LEVELS}
        return {level: papers(end - x) for level, end in ends.items()}

    label = [0] * 7 + [1] * 7
    on_valid = {r: roc_auc_score(label, values) for r, values in by_level(train[2:]).items()}
    best, on_test = max(on_valid, key=on_valid.get), by_level(images.test)
    preferred = set()
    for seed in range(3):
        labels = np.random.default_rng(seed).permutation([0] * 5 + [1] * 5)
        shown = dict(zip(images.test, labels.tolist(), strict=True))
        items = [dataclasses.replace(i, label=shown.get(i.image, i.label), mask=None) for i in dataset.items]
        relabelled = dataclasses.replace(dataset, items=tuple(items))
        found = subject_of(relabelled, detector, images).measure(way, [PAPER], "inputs").reached[PAPER]
        figures = {r: roc_auc_score(labels, values) for r, values in on_test.items()}
        preferred |= {max(figures, key=figures.get)}
        assert (found.level, found.evaluations) == (best, 2)
        assert found.samples["image_auroc"].value == pytest.approx(figures[best])
    assert preferred - {best}

    swapped = dataclasses.replace(images, normal=images.abnormal, abnormal=images.normal)
    chosen = subject_of(relabelled, detector, swapped).measure(way, [PAPER], "inputs").reached[PAPER].level
    assert chosen != best and on_valid[chosen] == min(on_valid.values())


def test_the_models_own_way_is_its_own_inversion_and_rule(brain):
    dataset, detector, images = brain
    measured = subject_of(*brain).measure(Way(Kind.OWN), [OWN_RULE], "inputs").reached[OWN_RULE]
    assert measured.evaluations == len(detector.timesteps) and measured.level is None
    by = subject_of(*brain).measure(Way(Kind.OWN), ["memory", "memory_and_features"], "inputs").reached
    plain, both = (by[rule].samples for rule in by)
    assert plain["image_auroc"].value == both["image_auroc"].value and plain["pixel_ap"].value != both["pixel_ap"].value
    with pytest.raises(ValueError, match="the 10 images of test are of one class only"):
        subject_of(dataset, detector, dataclasses.replace(images, test=images.test[:10]))
    with pytest.raises(
        ValueError, match="6 normal images to calibrate with, 0 normal and 4 abnormal ones to choose by"
    ):
        subject_of(dataset, detector, dataclasses.replace(images, normal=()))


def test_images_are_spread_over_patients_and_classes_drawn_by_their_share(tmp_path):
    images = [tmp_path / f"{i:02d}" for i in range(40)]
    unit = {image: f"patient {i // 4}" for i, image in enumerate(images)}  # each of one class
    label = {image: int(i >= 20) for i, image in enumerate(images)}
    for most in (6, 10, 17, 30):
        drawn = draw(images, unit, label, most)
        assert len(drawn) == most and drawn == sorted(drawn) == draw(images, unit, label, most)
        assert abs(sum(label[i] for i in drawn) - most / 2) <= 0.5
        for kind in (0, 1):
            parts = [sum(unit[i] == name and label[i] == kind for i in drawn) for name in set(unit.values())]
            own = sorted(parts)[-5:]  # nobody has a second image before everybody of the class has one
            assert max(own) - min(own) <= 1
    one_each = draw(images, unit, label, 10)
    assert [int(i.name) % 4 for i in one_each] == [2] * 10  # from the middle of a patient, not from an end
    assert draw(images, unit, label, 40) == images == draw(images, unit, label, None)
    of_one = dict.fromkeys(images[:20], "one")  # all that are normal of one patient: as many as asked for all the same
    assert sum(label[i] for i in draw(images, unit | of_one, label, 17)) == 8
    both = {image: i % 2 for i, image in enumerate(images)}  # everybody has images of both classes
    assert len({unit[image] for image in draw(images, unit, both, 10)}) == 10
    rare = {image: int(i == 39) for i, image in enumerate(images)}
    assert [sum(rare[i] for i in draw(images, unit, rare, most)) for most in (2, 5, 39)] == [1, 1, 1]
    common = {image: 1 - value for image, value in rare.items()}
    assert [sum(common[i] for i in draw(images, unit, common, most)) for most in (2, 5, 39)] == [1, 4, 38]


def test_more_evaluations_than_the_schedule_has_are_all_it_has():
    assert len(Way(Kind.PAPER, 1000).timesteps([], 1000)) == 999
    assert Way(Kind.PAPER, 1).timesteps([], 1000) == [(0, 999)]
    assert [Way(Kind.SINGLE, 200).timesteps([], schedule) for schedule in (1000, 500)] == [[(200, None)], [(100, None)]]
    assert Way(Kind.OWN).timesteps([(5, None)], 1000) == [(5, None)]
    for group in Group:
        rows = rows_of(group, "given")
        assert len({row.measured for row in rows}) == len(rows) and any(row.is_default for row in rows)
    assert {row.score for row in rows_of(Group.SCORES, "given")} == {PAPER, NORM, *MENU}


def test_what_is_written_is_read_again_and_damage_is_measured_anew(tmp_path):
    file = tmp_path / "a" / "paper3.npz"
    assert read_way(file) is None
    sample = Sample(0.5, np.array([0.25, np.nan]))
    WayMeasured("inputs", 1.5, 7, {"paper": Reached(3, 2.5, 300, {"image_auroc": sample})}).write(file)
    again = read_way(file)
    assert (again.inputs, again.encode_ms, again.images) == ("inputs", 1.5, 7)
    assert dataclasses.replace(again.reached["paper"], samples={}) == Reached(3, 2.5, 300, {})
    np.testing.assert_array_equal(again.reached["paper"].samples["image_auroc"].replicates, [0.25, np.nan])
    file.write_bytes(file.read_bytes()[:-9])
    assert read_way(file) is None
