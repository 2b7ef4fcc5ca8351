"""Which rule makes an image's score of an end point: ``python -m invad_med.commands.rules ROOT --models_dir DIR``.

Statistics of the end point, as logarithms standardised over the normal training images, alone and in pairs, on the
timesteps the models are for and on the paper's. A rule is to be chosen by ``valid`` (its abnormal images against the
normal images that training held out), pooled over the data sets; ``test`` is for the reader, and chooses nothing. The
two parts of the paper's score, nll and max - min, are taken as the paper has them, of the end point as it is.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from invad_med.data.bmad import BmadDataset, inspect_tree
from invad_med.detection import load_detector
from invad_med.diffusion import inversion_timesteps
from invad_med.evaluation.dataset import choose_checkpoint, choose_modality
from invad_med.evaluation.truth import read_truth
from invad_med.features.cached import cached_features
from invad_med.metrics import ranking
from invad_med.metrics.bootstrap import interval, resample_weights
from invad_med.metrics.image import auroc
from invad_med.scoring import Calibration, max_min, nll
from invad_med.scoring.calibration import combined
from invad_med.scoring.scores import top_mean
from invad_med.training.artefact import end_points
from invad_med.training.cohort import read_cohort

Rule = Callable[[Tensor], Tensor]
PAIRS: dict[str, Rule] = {
    "sum": lambda deviations: deviations.sum(1),
    "larger": lambda deviations: deviations.amax(1),
    "length": combined,
}


def statistics(z: Tensor, calibration: Calibration) -> dict[str, Tensor]:
    """Return the logarithms of statistics of end points (B, C, h, w): name -> (B,)."""
    whitened, maps = calibration.whiten(z), calibration.map(z)
    cells = {side: F.adaptive_avg_pool2d(whitened, side).square().mean(1).sqrt().amax((1, 2)) for side in (1, 2, 4, 8)}
    found = {
        "nll": nll(z),
        "max - min": max_min(z),
        "mean": maps.mean((1, 2)),
        "largest 5 %": top_mean(maps, 0.05),
        "largest 1 %": top_mean(maps, 0.01),
        **{f"cell of {side} x {side}": value for side, value in cells.items()},
    }
    return {name: value.log() for name, value in found.items()}


@dataclass
class Found:
    """What a rule reaches on one data set.

    Args:
        valid, test: image AUROC.
        valid_replicates, replicates: of ``valid`` by image, and of ``test`` by group: (resamples,).
    """

    valid: float
    test: float
    valid_replicates: np.ndarray
    replicates: np.ndarray


@dataclass
class Measured:
    """A rule: the statistics it is made of, and what it reaches by data set."""

    parts: tuple[str, ...]
    found: dict[str, Found] = field(default_factory=dict)


def measure(
    dataset: BmadDataset, models_dir: str | Path, cache_dir: str | Path | None
) -> dict[tuple[str, str], tuple[tuple[str, ...], Found]]:
    """Return what every rule reaches on one data set: (timesteps, rule) -> (its parts, figures).

    Raises:
        ValueError: no model for the data set, or a split without both classes.
    """
    modality = choose_modality(dataset, None, False, None)
    detector = load_detector(choose_checkpoint(modality.name, None, models_dir, False))
    cohort, truth = read_cohort(dataset.root, modality.name), read_truth(dataset, "test", modality)
    parts = [list(cohort.train), list(cohort.held_out), list(cohort.abnormal), list(truth.images)]
    raw = [cached_features(detector.host, paths, modality, cache_dir) for paths in parts]
    valid_labels = np.repeat([0, 1], [len(cohort.held_out), len(cohort.abnormal)])
    valid_weights = resample_weights(len(valid_labels))
    weights = resample_weights(int(truth.groups.max()) + 1)[:, truth.groups]
    result: dict[tuple[str, str], tuple[tuple[str, ...], Found]] = {}
    for grid, timesteps in (("calibrated", detector.timesteps), ("paper", inversion_timesteps(3))):
        detector.timesteps = timesteps
        train, held_out, abnormal, test = (end_points(detector, part) for part in raw)
        calibration = Calibration(train.shape[1]).fit(train, held_out, timesteps)
        fitted, *both = (statistics(z, calibration) for z in (train, torch.cat([held_out, abnormal]), test))
        valid, judged = ({n: (of[n] - fitted[n].mean()) / fitted[n].std() for n in fitted} for of in both)
        rules: list[tuple[tuple[str, ...], str, Rule]] = [((name,), name, PAIRS["sum"]) for name in fitted]
        for pair, (how, rule) in itertools.product(itertools.combinations(fitted, 2), PAIRS.items()):
            rules.append((pair, f"{how}: {pair[0]}, {pair[1]}", rule))
        for names, title, rule in rules:
            on_valid, on_test = (rule(torch.stack([of[n] for n in names], 1)).numpy() for of in (valid, judged))
            a, b = auroc(valid_labels, on_valid), auroc(truth.labels, on_test)
            if a is None or b is None:
                raise ValueError(f"{dataset.root.name}: valid and test must have images of both classes")
            replicates = _resampled(on_valid, valid_labels, valid_weights), _resampled(on_test, truth.labels, weights)
            result[grid, title] = (names, Found(a, b, *replicates))
    return result


def _resampled(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(scores[order]) != 0))
    positive, negative = (np.add.reduceat(weights[:, order] * which, starts, axis=1) for which in
                          (labels[order] == 1, labels[order] == 0))  # fmt: skip
    return ranking.auroc(positive, negative)


def table(rules: dict[tuple[str, str], Measured], rows: int) -> str:
    """Return the rules as a Markdown table, best pooled ``valid`` first, every statistic alone included.

    *behind* is the paired 95 % interval of how far a rule's pooled ``valid`` lies below the first one's.
    """
    names = list(next(iter(rules.values())).found)
    lines = [
        "| timesteps | rule | valid | behind | test | " + " | ".join(names) + " | clearly worse than a part |",
        "|" + "---|" * (6 + len(names)),
    ]
    order = sorted(rules, key=lambda key: -np.mean([f.valid for f in rules[key].found.values()]))
    pooled_valid = {key: np.mean([f.valid_replicates for f in rules[key].found.values()], axis=0) for key in order}
    for rank, (grid, title) in enumerate(order):
        rule = rules[grid, title]
        if rank >= rows and len(rule.parts) > 1:
            continue
        worse = []
        for part, name in itertools.product(rule.parts if len(rule.parts) > 1 else (), names):
            found = interval(rule.found[name].replicates - rules[grid, part].found[name].replicates)
            if found and found[1] < 0:
                worse.append(f"{name} ({part}: {rule.found[name].test - rules[grid, part].found[name].test:+.3f})")
        behind = interval(pooled_valid[order[0]] - pooled_valid[grid, title]) if rank else None
        valid, test = (
            f"{np.mean([getattr(f, split) for f in rule.found.values()]):.3f}" for split in ("valid", "test")
        )
        figures = [valid, f"[{behind[0]:.3f}, {behind[1]:.3f}]" if behind else "", test]
        figures += [f"{rule.found[name].test:.3f}" for name in names]
        lines.append(f"| {grid} | {title} | {' | '.join(figures)} | {', '.join(worse) or '-'} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of ``python -m invad_med.commands.rules``."""
    parser = argparse.ArgumentParser(
        prog="python -m invad_med.commands.rules", description=(__doc__ or "").split(":")[0]
    )
    parser.add_argument("dataset_dir", type=Path, help="folder of data sets in BMAD's layout")
    parser.add_argument("--models_dir", type=Path, required=True, help="folder of <data set>.pt")
    parser.add_argument("--cache_dir", type=Path, help="keep features here")
    parser.add_argument("--rows", type=int, default=20, help="pairs to show (%(default)s)")
    options = parser.parse_args(argv)
    rules: dict[tuple[str, str], Measured] = {}
    for dataset in tqdm(inspect_tree(options.dataset_dir), unit="data set"):
        for key, (parts, found) in measure(dataset, options.models_dir, options.cache_dir).items():
            rules.setdefault(key, Measured(parts)).found[dataset.root.name] = found
    print(table(rules, options.rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
