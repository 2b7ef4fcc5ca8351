"""From predictions to studies: which slices belong together, where in the body each lies, and what they come to.

A study of one slice is judged as that slice is. What was not scored of a larger one, though it shows something, may be
what is abnormal: such a study is not called normal.

| what was found | is a study | place of a slice |
|---|---|---|
| DICOM series, or one acquisition of it; NIfTI volume | of its own | along it, see below |
| TIFF of several pages | of its own | unknown: nothing says what the pages are |
| one PNG, JPEG or TIFF | of its own; with ``folder`` all those of its folder together | unknown |
| a file that cannot be read, neither DICOM nor NIfTI by its name | none; with ``folder`` a slice of its folder | |

A slice's place is that from the first to the last slice that shows anything, if these are at least 5 and go from feet
to head: those of another plane, or from head to feet, have no place that a model knows.

A DICOM file says itself what it belongs to, and a NIfTI file is a volume, so a folder does not. Pictures of one folder
are all for one model, and copies of one file are one slice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from invad_med.data.identity import MANIFEST
from invad_med.data.places import place_along
from invad_med.data.prediction import Prediction, Status, without_distance
from invad_med.data.slices import Source
from invad_med.data.study import Study, Verdict, ranked
from invad_med.readers.kinds import DICOM_SUFFIXES

FOLDER = "folder"
_STACK = 5  # slices from which a place along the stack is taken for one along the body
_NO_PICTURE = (".nii", ".nii.gz", *DICOM_SUFFIXES)


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

    def __call__(self, predictions: Iterable[Prediction], unread: Iterable[tuple[str, str]] = ()) -> list[Study]:
        """Return the studies of a run, `ranked`.

        Args:
            predictions: of all slices, scored or not, in any order, without their maps if need be.
            unread: name, as the table of slices has it, and reason of each file that could not be read.
        """
        lost: dict[str, list[str]] = {}
        for file, reason in unread:
            if name := study_of_unread(file, self.by):
                lost.setdefault(name, []).append(reason)
        members: dict[str, list[Prediction]] = {name: [] for name in lost}
        everything = sorted(predictions, key=lambda p: (p.source.name, p.index))
        for prediction in everything:
            members.setdefault(study_of(prediction.source, self.by), []).append(prediction)
        return ranked([self.study(name, own, lost.get(name, ())) for name, own in members.items()], everything)

    def study(self, name: str, members: Sequence[Prediction], unread: Sequence[str] = ()) -> Study:
        """Return one study.

        Args:
            name: of it.
            members: predictions for its slices, all of those that are scored by one model.
            unread: why each further file of it could not be read; there is at least one of either.
        """
        sources = tuple({p.source.name: p.source for p in members}.values())
        given, members = len(members), _once(members)
        copies = given - len(members)
        scored = [p for p in members if p.status is Status.SCORED]
        above = [p.abnormal for p in scored if p.abnormal is not None]
        rate = self.models.rate if self.models else None
        first = min(scored, key=lambda p: p.rank, default=None)
        slices = sum(source.n_slices for source in sources) - copies + len(unread)
        if not scored:
            shown = [p for p in members if p.status is not Status.NO_CONTRAST]
            verdict = Verdict(
                withheld=_why([*(p.reason for p in shown), *unread] or [p.reason for p in members], slices)
            )
        else:
            verdict = _of_slice(scored[0]) if slices == 1 else self._verdict(members)
            missing = slices - len(members) - len(unread)
            besides = Counter({str(Status.UNREADABLE): len(unread), "not come to": missing})
            verdict = _qualified(verdict, members, besides, copies)
        return Study(
            name=name,
            sources=sources,
            unread=len(unread),
            modality=scored[0].modality if scored else None,
            slices=slices,
            scored=len(scored),
            above=sum(above) if above else None,
            expected_above=len(scored) * rate if above and rate is not None else None,
            false_positive_rate=rate,
            first_slice=(first.source, first.index) if first else None,
            **vars(verdict),
        )

    def _verdict(self, members: Sequence[Prediction]) -> Verdict:
        scored = [p for p in members if p.status is Status.SCORED]
        shown = [p.index for p in members if p.status is not Status.NO_CONTRAST]
        pairs = [(p.score, position(p.source, p.index, shown)) for p in scored if p.score is not None]
        if not pairs:
            return Verdict(withheld=_why([p.reason for p in scored], len(scored)))
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


def _once(members: Sequence[Prediction]) -> list[Prediction]:
    """Return the first of all slices that are the same slice of files with the same content."""
    kept: dict[tuple[str, int], Prediction] = {}
    for p in members:
        kept.setdefault((p.content or p.source.name, p.index), p)
    return list(kept.values())


def _qualified(verdict: Verdict, members: Sequence[Prediction], besides: Counter[str], copies: int) -> Verdict:
    """Return a verdict with what it does not rest on; what was not scored keeps a study from being called normal.

    Args:
        verdict: on those of ``members`` that are scored.
        members: slices, each once.
        besides: how many further slices it has, by what became of them.
        copies: files whose content is that of others.
    """
    left_out = Counter(str(p.status) for p in members if p.status not in (Status.SCORED, Status.NO_CONTRAST))
    left_out += besides
    said = [verdict.withheld] if verdict.withheld else []
    if left_out:
        scored, slices = sum(p.status is Status.SCORED for p in members), len(members) + besides.total()
        part = f"only {scored} of {slices} slices were scored"
        part += f" ({', '.join(f'{n} {what}' for what, n in left_out.items())})"
        if verdict.abnormal is False:
            verdict, part = replace(verdict, threshold=None), f"not called normal, as {part}"
        said.append(part)
    if copies:
        said.append(f"{copies} of {len(members) + copies} images are copies of others, and count once")
    return replace(verdict, withheld="; ".join(said) or None)


def study_of(source: Source, by: str | None = None) -> str:
    """Return the name of the study that a source belongs to: its own, or that of its folder, which ends in ``/``."""
    if by is None or source.kind != "raster" or source.n_slices > 1:
        return source.name
    return f"{source.name.rpartition('/')[0] or '.'}/"


def study_of_unread(name: str, by: str | None = None) -> str | None:
    """Return the name of the study that a file which cannot be read belongs to, or None.

    Args:
        name: of the file, relative to what was searched, with its ending.
        by: ``folder``, or None.
    """
    folder, _, file = name.rpartition("/")
    if by is None or file == MANIFEST or file.casefold().endswith(_NO_PICTURE):
        return None
    return f"{folder or '.'}/"


def position(source: Source, index: int, shown: Sequence[int]) -> float | None:
    """Return where a slice lies along its stack, 0 to 1; None where that says nothing of its place in the body.

    Args:
        source: the stack.
        index: of the slice.
        shown: of those of its slices that are not known to show nothing.
    """
    if source.kind == "raster" or not source.ascends or max(shown) - min(shown) + 1 < _STACK:
        return None
    return place_along(index, shown)


def _why(reasons: Sequence[str | None], slices: int) -> str:
    """Return why none of so many slices has a score: the reason of most of those that show anything."""
    said = [reason or "no score" for reason in reasons]
    alike = Counter(said if len(said) == 1 else map(without_distance, said))
    ((reason, count),) = alike.most_common(1)
    return reason + (f" ({count} of {slices} slices; the others for other reasons)" if count < slices else "")
