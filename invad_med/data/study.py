"""What is said of a study: the slices of one volume, series or folder of images, judged together."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from invad_med.data.prediction import Judged, Prediction
from invad_med.data.slices import Source


@dataclass(frozen=True, kw_only=True)
class Verdict(Judged):
    """The numbers of one study; None where they are withheld.

    Args:
        score, threshold, p_value: see `Judged`; among held-out normal patients, see `invad_med.scoring.studies`.
        withheld: why one of them is None, and what the others do not rest on; None where there is nothing to say.
    """

    withheld: str | None = None


@dataclass(frozen=True, kw_only=True)
class Study(Verdict):
    """The result for one study.

    Args:
        name: of the source, or of the folder whose images it holds.
        sources: what it holds, scored or not, in the order of their names.
        modality: name of the modality whose model scored it; None if nothing was scored.
        unread: how many files of a folder could not be read; each counts as a slice.
        slices: number of slices, copies of one file being one, and how many of them were scored.
        scored: see above.
        above: how many of those lie above the threshold of a slice; None where there is no such threshold.
        expected_above: how many of as many normal slices would lie above it by chance: ``scored`` times the rate.
        false_positive_rate: that rate: what the thresholds promise of normal slices, and of normal patients.
        first_slice: where to look first, source and index of the slice with the highest score; None if none is scored.
    """

    name: str
    sources: tuple[Source, ...]
    unread: int = 0
    modality: str | None = None
    slices: int = 0
    scored: int = 0
    above: int | None = None
    expected_above: float | None = None
    false_positive_rate: float | None = None
    first_slice: tuple[Source, int] | None = None

    @property
    def is_source(self) -> bool:
        """Whether it is one source, and not the images of a folder."""
        return [source.name for source in self.sources] == [self.name]


def ranked(studies: Iterable[Study], predictions: Iterable[Prediction]) -> list[Study]:
    """Return studies as every table and page shows them: the most abnormal first, those without a verdict last.

    Studies whose numbers are equal or withheld are told apart by their most abnormal slice, then by name.

    Args:
        studies: in any order.
        predictions: of their slices, scored or not.
    """
    best: dict[str, tuple[float, ...]] = {}
    for prediction in predictions:
        name = prediction.source.name
        best[name] = min(best.get(name, prediction.rank), prediction.rank)

    def key(study: Study) -> tuple[tuple[float, ...], tuple[float, ...], str]:
        own = [best[source.name] for source in study.sources if source.name in best]
        return study.rank, min(own, default=(math.inf,)), study.name

    return sorted(studies, key=key)
