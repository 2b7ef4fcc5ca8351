"""Which rule makes an image's score of an end point: statistics alone and in pairs, on one data set and over several.

Statistics of the end point are taken as logarithms standardised over the normal training images, on the timesteps the
model is for and on the paper's. A rule is to be chosen by ``valid`` (its abnormal images against the normal images that
training held out), pooled over the data sets; ``test`` is for the reader, and chooses nothing. The two parts of the
paper's score, nll and max - min, are taken as the paper has them, of the end point as it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from invad_med.detection import AnomalyDetector
from invad_med.diffusion import inversion_timesteps
from invad_med.evaluation.truth import Truth
from invad_med.features.cached import cached_features
from invad_med.features.endpoints import walked
from invad_med.metrics import ranking
from invad_med.metrics.bootstrap import interval, resample_weights
from invad_med.metrics.image import auroc
from invad_med.scoring.calibration import Calibration, combined
from invad_med.scoring.rules import lengths, longest_cell
from invad_med.scoring.scores import max_min, nll, top_mean

Rule = Callable[[Tensor], Tensor]
PAIRS: dict[str, Rule] = {
    "sum": lambda deviations: deviations.sum(1),
    "larger": lambda deviations: deviations.amax(1),
    "length": combined,
}


def statistics(z: Tensor, calibration: Calibration) -> dict[str, Tensor]:
    """Return the logarithms of statistics of end points (B, C, h, w): name -> (B,)."""
    whitened = calibration.whiten(z)
    maps = lengths(whitened)
    cells = {side: longest_cell(whitened, side) for side in (1, 2, 4, 8, 16)}
    taken = {
        "nll": nll(z),
        "max - min": max_min(z),
        "mean": maps.mean((1, 2)),
        "largest 5 %": top_mean(maps, 0.05),
        "largest 1 %": top_mean(maps, 0.01),
        **{f"cell of {side} x {side}": value for side, value in cells.items()},
    }
    return {name: value.log() for name, value in taken.items()}


@dataclass
class Reached:
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
    reached: dict[str, Reached] = field(default_factory=dict)


def measure_rules(
    detector: AnomalyDetector,
    train: Sequence[Path],
    held_out: Sequence[Path],
    abnormal: Sequence[Path],
    truth: Truth,
    cache_dir: str | Path | None = None,
) -> dict[tuple[str, str], tuple[tuple[str, ...], Reached]]:
    """Return what every rule reaches on one data set: (timesteps, rule) -> (its parts, figures).

    Args:
        detector: of the data set.
        train: normal images that it was trained on.
        held_out: normal images that its training held out.
        abnormal: abnormal images of ``valid``.
        truth: of the test split.
        cache_dir: folder of features, kept between runs; None: not kept.

    Raises:
        ValueError: a split without both classes.
    """
    if not held_out or not abnormal or not truth.both_classes:
        raise ValueError("valid and test must have images of both classes")
    host, modality = detector.host, truth.modality
    raw = [cached_features(host, list(part), modality, cache_dir) for part in (train, held_out, abnormal, truth.images)]
    valid_labels = np.repeat([0, 1], [len(held_out), len(abnormal)])
    valid_weights = resample_weights(len(valid_labels))
    weights = resample_weights(int(truth.groups.max()) + 1)[:, truth.groups]
    paper = inversion_timesteps(3, "paper", len(host.alphas_cumprod))
    result: dict[tuple[str, str], tuple[tuple[str, ...], Reached]] = {}
    for grid, timesteps in (("calibrated", detector.timesteps), ("paper", paper)):
        learnt, held, abnormal_ones, tested = (walked(host, part, timesteps) for part in raw)
        calibration = Calibration(host.channels).fit(learnt, held, timesteps)
        parts = (learnt, held.joined(abnormal_ones), tested)
        fitted, *both = (statistics(part.end_point, calibration) for part in parts)
        valid, test = ({n: (of[n] - fitted[n].mean()) / fitted[n].std() for n in fitted} for of in both)
        for names, title, rule in _rules(list(fitted)):
            on_valid, on_test = (rule(torch.stack([of[n] for n in names], 1)).numpy() for of in (valid, test))
            a, b = auroc(valid_labels, on_valid), auroc(truth.labels, on_test)
            assert a is not None and b is not None  # both have both classes
            replicates = _resampled(on_valid, valid_labels, valid_weights), _resampled(on_test, truth.labels, weights)
            result[grid, title] = (names, Reached(a, b, *replicates))
    return result


def _rules(names: Sequence[str]) -> list[tuple[tuple[str, ...], str, Rule]]:
    """Return every statistic alone, and every pair in every way: (parts, title, rule)."""
    rules: list[tuple[tuple[str, ...], str, Rule]] = [((name,), name, PAIRS["sum"]) for name in names]
    for pair, (how, rule) in itertools.product(itertools.combinations(names, 2), PAIRS.items()):
        rules.append((pair, f"{how}: {pair[0]}, {pair[1]}", rule))
    return rules


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
    names = list(next(iter(rules.values())).reached)
    lines = [
        "| timesteps | rule | valid | behind | test | " + " | ".join(names) + " | clearly worse than a part |",
        "|" + "---|" * (6 + len(names)),
    ]
    order = sorted(rules, key=lambda key: -np.mean([f.valid for f in rules[key].reached.values()]))
    pooled_valid = {key: np.mean([f.valid_replicates for f in rules[key].reached.values()], axis=0) for key in order}
    for rank, (grid, title) in enumerate(order):
        rule = rules[grid, title]
        if rank >= rows and len(rule.parts) > 1:
            continue
        worse = []
        for part, name in itertools.product(rule.parts if len(rule.parts) > 1 else (), names):
            apart = interval(rule.reached[name].replicates - rules[grid, part].reached[name].replicates)
            if apart and apart[1] < 0:
                worse.append(f"{name} ({part}: {rule.reached[name].test - rules[grid, part].reached[name].test:+.3f})")
        behind = interval(pooled_valid[order[0]] - pooled_valid[grid, title]) if rank else None
        valid, test = (
            f"{np.mean([getattr(f, split) for f in rule.reached.values()]):.3f}" for split in ("valid", "test")
        )
        figures = [valid, f"[{behind[0]:.3f}, {behind[1]:.3f}]" if behind else "", test]
        figures += [f"{rule.reached[name].test:.3f}" for name in names]
        lines.append(f"| {grid} | {title} | {' | '.join(figures)} | {', '.join(worse) or '-'} |")
    return "\n".join(lines)
