"""What is said of a study: the slices of one volume, series or folder of images, judged together."""

from __future__ import annotations

from dataclasses import dataclass

from invad_med.data.slices import Source


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The numbers of one study; None where they are withheld.

    Args:
        score: calibrated study score, see `invad_med.scoring.studies`.
        threshold: score above which a study counts as abnormal.
        p_value: conformal p-value of the score among held-out normal patients, 0 < p <= 1.
        withheld: why one of them is None, or None where nothing is withheld.
    """

    score: float | None = None
    threshold: float | None = None
    p_value: float | None = None
    withheld: str | None = None

    @property
    def abnormal(self) -> bool | None:
        """Whether the score exceeds the threshold; None where one of them is withheld."""
        return None if self.score is None or self.threshold is None else bool(self.score > self.threshold)


@dataclass(frozen=True, kw_only=True)
class Study(Verdict):
    """The result for one study.

    Args:
        name: of the source, or of the folder whose images it holds.
        sources: what it holds, scored or not, in the order of their names.
        modality: name of the modality whose model scored it; None if nothing was scored.
        slices: number of slices, and how many of them were scored.
        scored: see above.
        above: how many of those lie above the threshold of a slice; None where there is no such threshold.
        expected_above: how many of as many normal slices would lie above it by chance: ``scored`` times the rate.
        false_positive_rate: that rate: what the thresholds promise of normal slices, and of normal patients.
        first_slice: where to look first, source and index of the slice with the highest score; None if none is scored.
    """

    name: str
    sources: tuple[Source, ...]
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
