"""What a normal study looks like: the slice scores of held-out normal patients, which judge many slices together.

A stack of 155 slices, each tested at 5 %, has eight above threshold when nothing is wrong, and the highest score of a
stack grows with the number of its slices. A study's score is therefore the **expected highest of m slices**: the mean,
over all ways to draw m slices of the study, of the highest score drawn. It has a closed form, its expectation does not
depend on how many slices there are, and m says what is looked for: 1 is the mean over the study, a large m a finding
on few slices. The choice of m stays with the checkpoint.

Normal slices differ by level: the vertex scores higher than the basal ganglia. Where the place along the body is known,
of the study and of the held-out slices, a slice is compared with normals of like place (mean and deviation, weighted by
a Gaussian of the distance), else with all of them.

A p-value is the conformal rank among held-out normal *patients*, each reduced to as many slices as the study has, at
like places, so that a fresh normal patient falls below alpha with probability at most alpha. N patients support no
p-value below 1 / (N + 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from invad_med.scoring.conformal import halfway_up, upper_limit

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

    scores: np.ndarray
    patients: np.ndarray
    positions: np.ndarray | None = None

    def where(self, chosen: np.ndarray) -> Slices:
        """Return the slices that ``chosen`` (N,) bool says."""
        return Slices(
            self.scores[chosen], self.patients[chosen], None if self.positions is None else self.positions[chosen]
        )

    def joined(self, other: Slices) -> Slices:
        """Return these slices and another's; positions where both have them."""
        positions = None
        if self.positions is not None and other.positions is not None:
            positions = np.concatenate([self.positions, other.positions])
        scores, patients = (np.concatenate(pair) for pair in zip(self[:2], other[:2], strict=True))
        return Slices(scores, patients, positions)


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


class StudyCalibration:
    """Slice scores of held-out normal patients, stored with the model.

    Args:
        highest_of: m, at least 1.

    Raises:
        ValueError: m is below 1.
    """

    def __init__(self, highest_of: int = HIGHEST_OF) -> None:
        if highest_of < 1 or highest_of != int(highest_of):
            raise ValueError(f"highest_of={highest_of} must be at least 1, and whole")
        self.highest_of = int(highest_of)
        self.scores = np.zeros(0, np.float32)  # (N,) of slices
        self.patients = np.zeros(0, np.int64)  # (N,) whose each is
        self.positions = np.zeros(0, np.float32)  # (N,) 0 to 1 along the stack, or none is known
        self._references: dict[tuple[int, bytes | None], np.ndarray] = {}  # of the last study's places

    def fit(self, scores: ArrayLike, patients: ArrayLike, positions: ArrayLike | None = None) -> StudyCalibration:
        """Take up the slices of held-out normal patients and return self.

        Args:
            scores: (N,) slice scores, as `Calibration.score` gives them.
            patients: (N,) int, equal for slices of one patient.
            positions: (N,) of each slice along its stack, 0 to 1; None if unknown.

        Raises:
            ValueError: no slice, lengths that differ, or values that are not finite.
        """
        given = [np.asarray(values) for values in (scores, patients, () if positions is None else positions)]
        lengths = [len(values) for values in given[: 2 if positions is None else 3]]
        if not lengths[0] or len(set(lengths)) > 1:
            raise ValueError(f"slices of {lengths} scores, patients and positions")
        if not all(np.isfinite(values).all() for values in given):
            raise ValueError("scores and positions of held-out normal slices must be finite")
        if not (given[1] == given[1].astype(np.int64)).all():
            raise ValueError("patients must be whole numbers, equal for slices of one patient")
        self.scores, self.patients = given[0].astype(np.float32), given[1].astype(np.int64)
        self.positions = given[2].astype(np.float32)
        self._references.clear()
        return self

    @property
    def has_positions(self) -> bool:
        """Whether slices can be compared with normals of like place."""
        return len(self.positions) > 0

    @property
    def drawn(self) -> int:
        """How many slices the highest is taken of: m, or what half of the held-out patients have, if that is less."""
        counts = np.unique(self.patients, return_counts=True)[1]
        half = np.sort(counts)[: (len(counts) + 1) // 2]
        return min([self.highest_of, *half[-1:].tolist()])

    def judge(
        self, scores: ArrayLike, positions: ArrayLike | None = None, false_positive_rate: float = 0.05
    ) -> StudyScore:
        """Return what a study's slices come to.

        Args:
            scores: (n,) slice scores, n at least 1.
            positions: (n,) along the stack, 0 to 1; None if unknown.
            false_positive_rate: of the threshold, 0 < rate < 1, among normal patients.

        Raises:
            ValueError: no slice, or the calibration is not fitted.
        """
        score = self.score(scores, positions)
        references = self.references(len(np.asarray(scores)), positions if self.has_positions else None)
        at_least = int((references >= score).sum())
        return StudyScore(
            score,
            (1.0 + at_least) / (len(references) + 1.0),
            upper_limit(references, false_positive_rate),
            len(references),
        )

    def score(self, scores: ArrayLike, positions: ArrayLike | None = None) -> float:
        """Return the expected highest of m of a study's slices, in deviations; arguments and errors as of `judge`."""
        values = np.asarray(scores, np.float64)
        if not len(values) or not len(self.scores):
            raise ValueError(f"{len(values)} slices, and {len(self.scores)} to compare them with")
        placed = np.asarray(positions) if positions is not None and self.has_positions else None
        if not np.isfinite(values).all() or (placed is not None and not np.isfinite(placed).all()):
            raise ValueError("scores and positions of a study must be finite")
        return expected_highest(self._deviations(values, placed, np.ones(len(self.scores), bool)), self.drawn)

    def references(self, slices: int, places: ArrayLike | None = None) -> np.ndarray:
        """Return study scores of the held-out patients, ascending, each moved `halfway_up`: (k,) float64.

        A patient is reduced to as many slices as the study has: those nearest to the study's own places, so that a
        study of few slices is compared with such slices, else evenly along the stack; and compared with the others.
        Left out is who has fewer slices than the highest is taken of.

        Args:
            slices: of the study to be compared.
            places: (slices,) of them along the stack, 0 to 1; None if slices are compared with normals of any place.
        """
        key = slices, None if places is None else np.asarray(places, np.float32).tobytes()
        if key not in self._references:
            self._references = {key: self._reduced(slices, None if places is None else np.asarray(places))}
        return self._references[key]

    def _reduced(self, slices: int, places: np.ndarray | None) -> np.ndarray:
        found = []
        for patient in np.unique(self.patients):
            own = np.flatnonzero(self.patients == patient)
            if len(own) < min(self.drawn, slices):
                continue
            if self.has_positions:
                own = own[self.positions[own].argsort(kind="stable")]
            if places is None:
                count = min(slices, len(own))
                own = own[((np.arange(count) + 0.5) * len(own) / count).astype(int)]
            else:
                own = own[_nearest(self.positions[own], places)]
            others = self.patients != patient
            counted = others if others.any() else ~others  # one patient alone
            placed = None if places is None else self.positions[own]
            found.append(expected_highest(self._deviations(self.scores[own], placed, counted), self.drawn))
        return halfway_up(np.array(found)) if found else np.zeros(0)

    def _deviations(self, scores: np.ndarray, positions: np.ndarray | None, counted: np.ndarray) -> np.ndarray:
        """Return scores (n,) in deviations from the normal slices that ``counted`` (N,) says: (n,) float64."""
        values = self.scores[counted].astype(np.float64)
        mean, second = values.mean(), (values**2).mean()
        if positions is not None:
            places = self.positions[counted].astype(np.float64)
            weights = np.exp(-0.5 * ((positions.astype(np.float64)[:, None] - places) / BANDWIDTH) ** 2)
            total = weights.sum(1)
            mean = (weights @ values + _ALL * mean) / (total + _ALL)
            second = (weights @ values**2 + _ALL * second) / (total + _ALL)
        return np.asarray((scores.astype(np.float64) - mean) / np.sqrt(np.maximum(second - mean**2, 1e-6)))

    def pool(self, others: Sequence[StudyCalibration]) -> StudyCalibration:
        """Take up the patients of other calibrations too, none of whom is its own, and return self."""
        parts = [part for part in (self, *others) if len(part.scores)]
        placed = all(part.has_positions for part in parts)
        before = 0
        patients = []
        for part in parts:
            patients.append(np.unique(part.patients, return_inverse=True)[1] + before)
            before = int(patients[-1].max()) + 1
        if parts:
            positions = np.concatenate([part.positions for part in parts]) if placed else None
            self.fit(np.concatenate([part.scores for part in parts]), np.concatenate(patients), positions)
        return self

    def to_state(self) -> dict[str, Any]:
        """Return all of it as plain values, which a checkpoint loads safely."""
        arrays = {name: getattr(self, name).tolist() for name in ("scores", "patients", "positions")}
        return {"highest_of": self.highest_of, **arrays}

    def take_state(self, state: Mapping[str, Any]) -> None:
        """Take up a checkpoint's: `to_state`, or tensors in the place of its lists.

        Raises:
            ValueError: as of making and fitting one.
        """
        StudyCalibration.__init__(self, state.get("highest_of", self.highest_of))
        if len(state.get("scores", ())):
            places = state["positions"]
            self.fit(state["scores"], state["patients"], places if len(places) else None)


def _nearest(positions: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return indices of the positions (n,) nearest to places (k,), each once, by ascending place: (min(n, k),)."""
    free = np.ones(len(positions), bool)
    chosen = []
    for place in np.sort(places) if len(places) < len(positions) else positions:
        chosen.append(int(np.where(free, np.abs(positions - place), np.inf).argmin()))
        free[chosen[-1]] = False
    return np.array(chosen)


def expected_highest(scores: ArrayLike, m: int) -> float:
    """Return the mean of the highest of m values over all ways to draw m of ``scores`` (n,); of all n if n < m.

    The i-th smallest is the highest of C(i - 1, m - 1) of the C(n, m) draws: of m / n of them for i = n, and of
    (i - m + 1) / i times as many as the next larger one for a smaller i.
    """
    ascending = np.sort(np.asarray(scores, np.float64))
    n = len(ascending)
    m = min(m, n)
    i = np.arange(n - 1, m - 1, -1)
    shares = np.cumprod(np.concatenate([[m / n], (i - m + 1) / i]))
    return float(ascending[m - 1 :][::-1] @ shares)
