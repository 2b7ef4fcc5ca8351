"""What a normal study looks like: the slice scores of held-out normal patients, which judge many slices together.

A stack of 155 slices, each tested at 5 %, has eight above threshold when nothing is wrong, and the highest score of a
stack grows with the number of its slices. A study's score is therefore the **expected highest of m slices**: the mean,
over all ways to draw m slices of the study, of the highest score drawn. It has a closed form, its expectation does not
depend on how many slices there are, and m says what is looked for: 1 is the mean over the study, a large m a finding
on few slices. The choice of m stays with the checkpoint.

Normal slices differ by level: the vertex scores higher than the basal ganglia. Where the place along the body is known,
of the study and of the held-out slices, a slice is compared with normals of like place (mean and deviation, weighted by
a Gaussian of the distance), else with all of them.

A p-value is the conformal rank among held-out normal *patients*, each reduced to as many slices as the study has, so
that a fresh normal patient falls below alpha with probability at most alpha. N patients support no p-value below
1 / (N + 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from invad_med.scoring.calibration import halfway_up, upper_limit

HIGHEST_OF = 8  # m unless it is chosen
MENU = (HIGHEST_OF, 1, 2, 4, 16)  # of which a training chooses m, the default first
BANDWIDTH = 0.07  # deviation of the weight of a slice by its distance, as a share of the stack
_ALL = 2.0  # slices' worth of the mean over all places in that of one


class Slices(NamedTuple):
    """Slices of patients.

    Args:
        scores: (N,) as `Calibration.score` gives them.
        patients: (N,) int, equal for slices of one patient.
        positions: (N,) of each slice along its stack, 0 to 1; None if one is unknown.
    """

    scores: Tensor
    patients: Tensor
    positions: Tensor | None = None

    def where(self, chosen: Tensor) -> Slices:
        """Return the slices that ``chosen`` (N,) bool says."""
        return Slices(
            self.scores[chosen], self.patients[chosen], None if self.positions is None else self.positions[chosen]
        )

    def joined(self, other: Slices) -> Slices:
        """Return these slices and another's; positions where both have them."""
        positions = None
        if self.positions is not None and other.positions is not None:
            positions = torch.cat([self.positions, other.positions])
        return Slices(torch.cat([self.scores, other.scores]), torch.cat([self.patients, other.patients]), positions)


class StudyScore(NamedTuple):
    """A study's numbers.

    Args:
        score: in deviations of a normal slice.
        p_value: in [1 / (N + 1), 1] of N comparable patients.
        threshold: score that a fresh normal patient exceeds with at most the rate asked for; None if out of reach.
        patients: N.
    """

    score: float
    p_value: float
    threshold: float | None
    patients: int


class StudyCalibration(nn.Module):
    """Slice scores of held-out normal patients, stored with the model.

    Args:
        highest_of: m, at least 1.

    Raises:
        ValueError: m is below 1.
    """

    def __init__(self, highest_of: int = HIGHEST_OF) -> None:
        super().__init__()
        if highest_of < 1:
            raise ValueError(f"highest_of={highest_of} must be at least 1")
        self.highest_of = highest_of
        self.scores = torch.zeros(0)  # (N,) of slices; these three stay on the CPU
        self.patients = torch.zeros(0, dtype=torch.int64)  # (N,) whose each is
        self.positions = torch.zeros(0)  # (N,) 0 to 1 along the stack, or none is known
        self._references: dict[tuple[int, bool], Tensor] = {}

    def fit(self, scores: Tensor, patients: Tensor, positions: Tensor | None = None) -> StudyCalibration:
        """Take up the slices of held-out normal patients and return self.

        Args:
            scores: (N,) slice scores, as `Calibration.score` gives them.
            patients: (N,) int, equal for slices of one patient.
            positions: (N,) of each slice along its stack, 0 to 1; None if unknown.

        Raises:
            ValueError: no slice, lengths that differ, or values that are not finite.
        """
        given = [scores, patients] + ([] if positions is None else [positions])
        if not len(scores) or len({len(values) for values in given}) > 1:
            raise ValueError(f"slices of {[len(values) for values in given]} scores, patients and positions")
        if not all(torch.isfinite(values.double()).all() for values in given):
            raise ValueError("scores and positions of held-out normal slices must be finite")
        self.scores = scores.float().cpu()
        self.patients = patients.long().cpu()
        self.positions = torch.zeros(0) if positions is None else positions.float().cpu()
        self._references.clear()
        return self

    @property
    def has_positions(self) -> bool:
        """Whether slices can be compared with normals of like place."""
        return len(self.positions) > 0

    @property
    def drawn(self) -> int:
        """How many slices the highest is taken of: m, or what half of the held-out patients have, if that is less."""
        return min(self.highest_of, int(self.patients.unique(return_counts=True)[1].median()))

    def judge(self, scores: Tensor, positions: Tensor | None = None, false_positive_rate: float = 0.05) -> StudyScore:
        """Return what a study's slices come to.

        Args:
            scores: (n,) slice scores, n at least 1.
            positions: (n,) along the stack, 0 to 1; None if unknown.
            false_positive_rate: of the threshold, 0 < rate < 1, among normal patients.

        Raises:
            ValueError: no slice, or the calibration is not fitted.
        """
        score = self.score(scores, positions)
        references = self.references(len(scores), positions is not None and self.has_positions)
        at_least = int((references >= score).sum())
        return StudyScore(
            score,
            (1.0 + at_least) / (len(references) + 1.0),
            upper_limit(references, false_positive_rate),
            len(references),
        )

    def score(self, scores: Tensor, positions: Tensor | None = None) -> float:
        """Return the expected highest of m of a study's slices, in deviations; arguments and errors as of `judge`."""
        if not len(scores) or not len(self.scores):
            raise ValueError(f"{len(scores)} slices, and {len(self.scores)} to compare them with")
        everywhere = torch.ones(len(self.scores), dtype=torch.bool)
        placed = positions if self.has_positions else None
        return expected_highest(self._deviations(scores, placed, everywhere), self.drawn)

    def references(self, slices: int, placed: bool) -> Tensor:
        """Return study scores of the held-out patients, ascending, each moved `halfway_up`: (k,) float64.

        A patient is reduced to ``slices`` slices, evenly along the stack, and compared with the others. Left out is
        who has fewer slices than the highest is taken of.

        Args:
            slices: of the study to be compared.
            placed: whether slices are compared with normals of like place.
        """
        if (slices, placed) not in self._references:
            self._references[slices, placed] = self._reduced(slices, placed)
        return self._references[slices, placed]

    def _reduced(self, slices: int, placed: bool) -> Tensor:
        found = []
        for patient in self.patients.unique():
            own = torch.nonzero(self.patients == patient).flatten()
            if len(own) < min(self.drawn, slices):
                continue
            if self.has_positions:
                own = own[self.positions[own].argsort(stable=True)]
            count = min(slices, len(own))
            own = own[((torch.arange(count) + 0.5) * len(own) / count).long()]
            others = self.patients != patient
            counted = others if others.any() else ~others  # one patient alone
            deviations = self._deviations(self.scores[own], self.positions[own] if placed else None, counted)
            found.append(expected_highest(deviations, self.drawn))
        return halfway_up(torch.tensor(found, dtype=torch.float64)) if found else torch.zeros(0, dtype=torch.float64)

    def _deviations(self, scores: Tensor, positions: Tensor | None, counted: Tensor) -> Tensor:
        """Return scores (n,) in deviations from the normal slices that ``counted`` (N,) says: (n,) float64."""
        values = self.scores[counted].double()
        mean, second = values.mean(), (values**2).mean()
        if positions is not None:
            distance = (positions.double()[:, None] - self.positions[counted].double()[None, :]) / BANDWIDTH
            weights = torch.exp(-0.5 * distance**2)
            total = weights.sum(1)
            mean = (weights @ values + _ALL * mean) / (total + _ALL)
            second = (weights @ values**2 + _ALL * second) / (total + _ALL)
        return (scores.double().cpu() - mean) / (second - mean**2).clamp_min(1e-6).sqrt()

    def pool(self, others: Sequence[StudyCalibration]) -> StudyCalibration:
        """Take up the patients of other calibrations too, none of whom is its own, and return self."""
        parts = [part for part in (self, *others) if len(part.scores)]
        placed = all(part.has_positions for part in parts)
        before = 0
        patients = []
        for part in parts:
            patients.append(part.patients.unique(return_inverse=True)[1] + before)
            before = int(patients[-1].max()) + 1
        if parts:
            positions = torch.cat([part.positions for part in parts]) if placed else None
            self.fit(torch.cat([part.scores for part in parts]), torch.cat(patients), positions)
        return self

    def get_extra_state(self) -> dict[str, Any]:
        """Return all of it, so that it travels in the state dict."""
        return {name: getattr(self, name) for name in ("highest_of", "scores", "patients", "positions")}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take up a checkpoint's."""
        for name, value in state.items():
            setattr(self, name, value)
        self._references.clear()


def expected_highest(scores: Tensor, m: int) -> float:
    """Return the mean of the highest of m values over all ways to draw m of ``scores`` (n,); of all n if n < m.

    The i-th smallest is the highest of C(i - 1, m - 1) of the C(n, m) draws.
    """
    n = len(scores)
    m = min(m, n)
    i = torch.arange(m, n + 1, dtype=torch.float64)
    weights = torch.exp(_log_ways(i - 1, m - 1) - _log_ways(torch.tensor(n, dtype=torch.float64), m))
    return float(scores.double().sort().values[m - 1 :] @ weights)


def _log_ways(n: Tensor, k: int) -> Tensor:
    return torch.lgamma(n + 1) - math.lgamma(k + 1) - torch.lgamma(n - k + 1)
