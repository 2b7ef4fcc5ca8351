"""What a model scores by, images and studies: chosen on ``valid``, where that is told from the default.

A choice is good if it ranks abnormal images above normal ones and, where masks say what is abnormal, abnormal positions
above all others: image AUROC plus average precision over the grid's cells. With a score of abnormal images the best of
several is partly luck, so that another than the default is taken only if it is ahead by more than the standard error
of the difference, over resamples of the patients: slices of one are alike. What is taken may still be luck, and
``test`` is for the reader to see.

Of how many slices a study's score takes the highest is chosen in the same way, by the AUROC of patients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from invad_med.diffusion import Timesteps, Walked
from invad_med.scoring.calibration import Calibration
from invad_med.scoring.rules import MENU
from invad_med.scoring.studies import MENU as HIGHEST_OF_MENU
from invad_med.scoring.studies import Slices, StudyCalibration

RESAMPLES = 100

_Candidate = TypeVar("_Candidate")
Walk = tuple[tuple[int, int | None], ...]


def as_walk(timesteps: Timesteps) -> Walk:
    """Return timesteps, as a configuration may give them in lists, to look up by."""
    return tuple((t, t_next) for t, t_next in timesteps)


@dataclass(frozen=True)
class EndPoints:
    """What one inversion makes of the images that choose.

    Args:
        train: normal images that were learnt from.
        normal: normal images that were not.
        abnormal: abnormal images of ``valid``.
    """

    train: Walked
    normal: Walked
    abnormal: Walked


@dataclass(frozen=True)
class Choice:
    """What was chosen, and what each candidate reached.

    Args:
        timesteps: pairs (t, t_next) of the inversion.
        rule: a name of `invad_med.scoring.rules.RULES`.
        reached: by timesteps and rule, image AUROC (0 to 1), plus cell AP (0 to 1) where masks are known.
    """

    timesteps: Timesteps
    rule: str
    reached: dict[tuple[Walk, str], float]


def choose(
    walks: Mapping[Walk, EndPoints],
    lesions: Tensor | None = None,
    menu: Sequence[str] = MENU,
    patients: tuple[Sequence[int], Sequence[int]] | None = None,
) -> Choice:
    """Return the inversion and the rule to score by.

    Args:
        walks: timesteps -> end points of the same images, the default inversion first.
        lesions: (m, h, w) bool, the cells of the abnormal images that are abnormal; None where that is not known.
        menu: rules to choose from, the default first.
        patients: numbers of those that the normal and the abnormal images are of; None: each of its own.

    Raises:
        ValueError: no normal or no abnormal image.
    """
    some = next(iter(walks.values()))
    n, m = len(some.normal), len(some.abnormal)
    if not n or not m:
        raise ValueError(f"{n} normal and {m} abnormal images choose no rule")
    label = np.repeat([0, 1], [n, m])
    cells = torch.zeros(n + m, *some.normal.end_point.shape[-2:], dtype=torch.bool)
    if lesions is not None:
        cells[n:] = lesions
    abnormal_cells = cells.flatten(1).numpy()
    scores: dict[tuple[Walk, str], np.ndarray] = {}
    maps: dict[tuple[Walk, str], np.ndarray] = {}
    for walk, parts in walks.items():
        both = parts.normal.joined(parts.abnormal)
        for rule in menu:
            calibration = Calibration(both.end_point.shape[1], rule).fit(parts.train, parts.normal, walk)
            scores[walk, rule] = calibration.score(both.end_point).numpy()
            maps[walk, rule] = calibration.map(both).flatten(1).numpy()

    def reached(key: tuple[Walk, str], rows: np.ndarray) -> float:
        value = float(roc_auc_score(label[rows], scores[key][rows]))
        if abnormal_cells[rows].any():
            value += float(average_precision_score(abnormal_cells[rows].ravel(), maps[key][rows].ravel()))
        return value

    whose = patients or (range(n), range(m))
    if (len(whose[0]), len(whose[1])) != (n, m):
        raise ValueError(f"{n} normal and {m} abnormal images of {len(whose[0])} and {len(whose[1])} patients' numbers")
    best, figures = _told_from_the_first(list(scores), reached, *whose)
    return Choice(list(best[0]), best[1], figures)


def choose_highest_of(normal: Slices, abnormal: Slices) -> tuple[int, dict[int, float]]:
    """Return m of `invad_med.scoring.studies`, and the AUROC of patients that each of its menu reached.

    A patient is compared with the normal slices of the others. The default, and nothing reached, where there are fewer
    than two normal or two abnormal patients, or half of the abnormal ones have fewer slices than the default draws:
    what a stack of many slices needs cannot be seen in them.

    Args:
        normal: normal slices that nothing was learnt from.
        abnormal: all slices of patients with abnormal images, whose numbers are those of ``normal`` if they are there.
    """
    studies = [(part.where(part.patients == i), i) for part in (normal, abnormal) for i in np.unique(part.patients)]
    n, m = (len(np.unique(part.patients)) for part in (normal, abnormal))
    counts = np.sort(np.unique(abnormal.patients, return_counts=True)[1])
    stack = int(counts[(m - 1) // 2]) if m else 0
    if n < 2 or m < 2 or stack < HIGHEST_OF_MENU[0]:
        return HIGHEST_OF_MENU[0], {}
    scores = {
        k: np.array(
            [
                StudyCalibration(k).fit(*normal.where(normal.patients != i)).score(own.scores, own.positions)
                for own, i in studies
            ]
        )
        for k in HIGHEST_OF_MENU
    }
    label = np.repeat([0, 1], [n, m])
    return _told_from_the_first(
        HIGHEST_OF_MENU, lambda k, rows: float(roc_auc_score(label[rows], scores[k][rows])), range(n), range(m)
    )


def _told_from_the_first(
    candidates: Sequence[_Candidate],
    reached: Callable[[_Candidate, np.ndarray], float],
    normal: Sequence[int],
    abnormal: Sequence[int],
) -> tuple[_Candidate, dict[_Candidate, float]]:
    """Return the best of the candidates that are ahead of the first by more than a standard error, and all figures.

    Args:
        candidates: the default first, which is returned where no other is.
        reached: a candidate's figure on rows, of which the first are normal, and all others abnormal.
        normal, abnormal: whom each row is of.
    """
    n, m = len(normal), len(abnormal)
    figures = {candidate: reached(candidate, np.arange(n + m)) for candidate in candidates}
    default = candidates[0]
    generator = np.random.default_rng(0)
    draws = [
        np.concatenate([_drawn(generator, np.asarray(normal)), n + _drawn(generator, np.asarray(abnormal))])
        for _ in range(RESAMPLES)
    ]
    leading = {candidate: value for candidate, value in figures.items() if value > figures[default]}
    of_default = [reached(default, rows) for rows in draws] if leading else []
    for candidate in sorted(leading, key=lambda candidate: -figures[candidate]):
        ahead = [reached(candidate, rows) - value for rows, value in zip(draws, of_default, strict=True)]
        if figures[candidate] - figures[default] > np.std(ahead, ddof=1):
            return candidate, figures
    return default, figures


def _drawn(generator: np.random.Generator, patients: np.ndarray) -> np.ndarray:
    """Return rows of as many patients drawn with replacement; single rows where all are of one patient."""
    names = np.unique(patients)
    if len(names) < 2:
        return generator.integers(len(patients), size=len(patients))
    rows = [np.flatnonzero(patients == name) for name in names]
    return np.concatenate([rows[i] for i in generator.integers(len(names), size=len(names))])
