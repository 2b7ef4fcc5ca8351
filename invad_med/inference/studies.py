"""From predictions to studies: which slices belong together, where in the body each lies, and what they come to.

A study of one slice is judged as that slice is. What was not scored of a larger one, though it shows something, may be
what is abnormal: such a study is not called normal.

| what was found | is a study | place of slice i of n |
|---|---|---|
| DICOM series, or one acquisition of it; NIfTI volume | of its own | (i + 0.5) / n from 5 slices on, else unknown |
| TIFF of several pages | of its own | unknown: nothing says what the pages are |
| one PNG, JPEG or TIFF | of its own; with ``folder`` all those of its folder together | unknown |

A DICOM file says itself what it belongs to, and a NIfTI file is a volume, so a folder does not. Pictures of one folder
are all for one model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from invad_med.data.prediction import Prediction, Status
from invad_med.data.slices import Source
from invad_med.data.study import Study, Verdict, ranked

FOLDER = "folder"
_STACK = 5  # slices from which a place along the stack is taken for one along the body


class Models(Protocol):
    """What judges studies, such as `invad_med.detection.Detectors`.

    Attributes:
        rate: of false positives, of slices and of studies.
    """

    rate: float

    def judge_study(self, modality: str, scores: Sequence[float], positions: Sequence[float] | None) -> Verdict:
        """Return the verdict of a modality's model on a study."""


class StudyJudge:
    """Make studies of predictions.

    Args:
        models: which judge them; None withholds every verdict.
        by: ``folder``, or None, see the module's table.

    Raises:
        ValueError: another word.
    """

    def __init__(self, models: Models | None = None, by: str | None = None) -> None:
        if by not in (None, FOLDER):
            raise ValueError(
                f"study_by={by!r}: {FOLDER} makes one study of the images of a folder, null one of each volume, series "
                "or image"
            )
        self.models, self.by = models, by

    def __call__(self, predictions: Iterable[Prediction]) -> list[Study]:
        """Return the studies of a run, `ranked`.

        Args:
            predictions: of all slices, scored or not, in any order, without their maps if need be.
        """
        members: dict[str, list[Prediction]] = {}
        everything = sorted(predictions, key=lambda p: (p.source.name, p.index))
        for prediction in everything:
            members.setdefault(study_of(prediction.source, self.by), []).append(prediction)
        return ranked([self.study(name, group) for name, group in members.items()], everything)

    def study(self, name: str, members: Sequence[Prediction]) -> Study:
        """Return one study.

        Args:
            name: of it.
            members: predictions for its slices, at least one, all of those that are scored by one model.
        """
        sources = tuple({p.source.name: p.source for p in members}.values())
        scored = [p for p in members if p.status is Status.SCORED]
        above = [p.abnormal for p in scored if p.abnormal is not None]
        rate = self.models.rate if self.models else None
        first = min(scored, key=lambda p: p.rank, default=None)
        slices = sum(source.n_slices for source in sources)
        if not scored:
            verdict = Verdict(withheld=_why(members))
        elif slices == 1:
            verdict = _of_slice(scored[0])
        else:
            verdict = _of_part(self._verdict(scored), members)
        return Study(
            name=name,
            sources=sources,
            modality=scored[0].modality if scored else None,
            slices=slices,
            scored=len(scored),
            above=sum(above) if above else None,
            expected_above=len(scored) * rate if above and rate is not None else None,
            false_positive_rate=rate,
            first_slice=(first.source, first.index) if first else None,
            **vars(verdict),
        )

    def _verdict(self, scored: Sequence[Prediction]) -> Verdict:
        pairs = [(p.score, position(p.source, p.index)) for p in scored if p.score is not None]
        if not pairs:
            return Verdict(withheld=_why(scored))
        if self.models is None:
            return Verdict(withheld="there is no model to judge studies")
        known = [place for _, place in pairs if place is not None]
        placed = known if len(known) == len(pairs) else None
        return self.models.judge_study(scored[0].modality or "", [score for score, _ in pairs], placed)


def _of_slice(prediction: Prediction) -> Verdict:
    withheld = prediction.reason if prediction.threshold is None else None
    return Verdict(
        score=prediction.score, threshold=prediction.threshold, p_value=prediction.p_value, withheld=withheld
    )


def _of_part(verdict: Verdict, members: Sequence[Prediction]) -> Verdict:
    """Return a verdict with what it does not rest on; if that is anything, it does not say that a study is normal."""
    left_out = Counter(str(p.status) for p in members if p.status not in (Status.SCORED, Status.NO_CONTRAST))
    if not left_out:
        return verdict
    scored = sum(p.status is Status.SCORED for p in members)
    said = f"{scored} of {len(members)} slices were scored ({', '.join(f'{n} {what}' for what, n in left_out.items())})"
    if verdict.abnormal is False:
        return replace(verdict, threshold=None, withheld=f"not called normal, as only {said}")
    return replace(verdict, withheld="; ".join([*([verdict.withheld] if verdict.withheld else []), f"only {said}"]))


def study_of(source: Source, by: str | None = None) -> str:
    """Return the name of the study that a source belongs to: its own, or that of its folder, which ends in ``/``."""
    if by is None or source.kind != "raster" or source.n_slices > 1:
        return source.name
    return f"{source.name.rpartition('/')[0] or '.'}/"


def position(source: Source, index: int) -> float | None:
    """Return where a slice lies along its stack, 0 to 1; None where that says nothing of its place in the body."""
    if source.kind == "raster" or source.n_slices < _STACK:
        return None
    return (index + 0.5) / source.n_slices


def _why(predictions: Sequence[Prediction]) -> str:
    """Return why slices have no score: the reason of most of them."""
    ((reason, count),) = Counter(p.reason or "no score" for p in predictions).most_common(1)
    others = len(predictions) - count
    return reason + (f" ({count} of {len(predictions)} slices; the others for other reasons)" if others else "")
