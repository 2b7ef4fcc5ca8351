"""One shard: its slices decoded, scored and judged by the one pipeline, its maps written, its rows."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from invad_med import __version__
from invad_med.data.prediction import Prediction, Status
from invad_med.data.slices import ReadError, Slice, Source
from invad_med.data.study import Study
from invad_med.files import flush
from invad_med.inference.ahead import AHEAD, ahead
from invad_med.inference.inputs import assign
from invad_med.inference.pipeline import score_source
from invad_med.readers.dicom.headers import header_uid
from invad_med.readers.dicom.pixels import LastFile
from invad_med.readers.sources import read_source
from invad_med.shards.index import Entry, input_of, key_of, sources_of
from invad_med.shards.models import LoadedModels
from invad_med.writers.maps import MapWriter
from invad_med.writers.naming import slice_path

T = TypeVar("T")
FAILED, SET_ASIDE = "failed", "set aside"  # beside the words of `Status`
_CHANGED = "Changed"


@dataclass(frozen=True)
class Row:
    """One slice, or one file that could not be read, with its verdict and all that the verdict depends on.

    Args:
        key: see `invad_med.shards.index.key_of`.
        input, source, slice: as in the index.
        status: a word of `invad_med.data.prediction.Status`, ``failed`` (scoring broke off) or ``set aside`` (processes
            ended over its source).
        error_class: ``ReadError``, ``Changed`` (since it was indexed), ``WorkerLost``, or a class of Python; None of a
            slice that was read.
        reason: as in the table of slices.
        modality, chosen_by, score, threshold, p_value, abnormal, paper_score: as there.
        series, study: digests of UIDs, as in the index.
        study_slices, study_scored, study_above, study_expected_above, study_score: of its source, which it is judged
            with, as in the table of studies.
        study_threshold, study_p_value, study_abnormal, study_reason: likewise.
        model, calibration: digests of checkpoint and calibration; None where no model was used.
        false_positive_rate: of the thresholds.
        engine, precision: what computed it.
        version: of this program.
        content: digest of the file.
        map: file with the map, below the working folder; None without one. Files of several slices have them in order.
    """

    key: str
    input: str
    source: int
    slice: int
    status: str
    error_class: str | None
    reason: str | None
    modality: str | None
    chosen_by: str | None
    score: float | None
    threshold: float | None
    p_value: float | None
    abnormal: bool | None
    paper_score: float | None
    series: str | None
    study: str | None
    study_slices: int
    study_scored: int
    study_above: int | None
    study_expected_above: float | None
    study_score: float | None
    study_threshold: float | None
    study_p_value: float | None
    study_abnormal: bool | None
    study_reason: str | None
    model: str | None
    calibration: str | None
    false_positive_rate: float
    engine: str | None
    precision: str | None
    version: str
    content: str
    map: str | None


@dataclass(frozen=True)
class _Scored:
    """A slice that was gone through: its source by number, what is said of it, and what kind of error that is."""

    number: int
    prediction: Prediction
    piece: Slice | ReadError
    status: str
    error_class: str | None = None


def score_shard(
    models: LoadedModels,
    entries: list[Entry],
    output_dir: Path,
    aside: Collection[int] = (),
    in_hand: Callable[[int], object] = lambda source: None,
    done: Callable[[int], object] = lambda slices: None,
    secret: str | None = None,
    careful: bool = False,
) -> list[Row]:
    """Score the slices of a shard; return their rows in the order of the index, their maps being on disk.

    Args:
        models: of this process.
        entries: the shard's rows of the index.
        output_dir: for maps.
        aside: numbers of sources that are not to be touched.
        in_hand: told the number of each source before it is opened.
        done: told how many slices have been gone through.
        secret: of the digests in place of UIDs in keys; None keeps the UIDs.
        careful: begin a source once the one before is written, so that the one in hand is the one at fault if the
            process ends.

    Raises:
        OSError: a map cannot be written.
        OtherSettings, FileNotFoundError, ValueError, RuntimeError: as `LoadedModels.facts`.
    """
    groups = {own[0].source: (source, own) for source, own in sources_of(entries)}
    rows: list[Row] = []
    written: list[Path] = []
    for part in [{number: group} for number, group in groups.items()] if careful else [groups]:
        with closing(ahead(_gone_through(models, part, aside, in_hand), AHEAD)) as results:
            for number, members in itertools.groupby(results, key=lambda one: one.number):
                own_rows, paths = _rows_of(models, *groups[number], members, output_dir, secret)
                rows += own_rows
                written += paths
                done(len(rows))
    for path in [*written, *dict.fromkeys(path.parent for path in written)]:
        flush(path)
    return rows


def _gone_through(
    models: LoadedModels,
    groups: dict[int, tuple[Source, list[Entry]]],
    aside: Collection[int],
    in_hand: Callable[[int], object],
) -> Iterator[_Scored]:
    last = LastFile()
    detectors, settings = models.detectors, models.settings
    for number, (source, own) in groups.items():
        in_hand(number)
        if refusal := _refusal(source, own, number in aside):
            status, error_class, reason = refusal
            for i in range(len(own)):
                prediction = Prediction(source, i, Status.UNREADABLE, reason)
                yield _Scored(number, prediction, ReadError(reason), status, error_class)
            continue
        items, unscored = assign([source], detectors.names, detectors.default, settings.modality)
        for prediction in unscored:
            yield _Scored(number, prediction, ReadError(prediction.reason or ""), str(prediction.status))
        if items:
            models.facts(items[0].modality.name)
        done = 0
        try:
            for prediction, piece in score_source(detectors, items, read_source(source, last), settings.batch_size):
                unread = prediction.status is Status.UNREADABLE
                yield _Scored(number, prediction, piece, str(prediction.status), "ReadError" if unread else None)
                done += 1
        except Exception as error:  # memory, an engine: the other sources are scored
            reason = f"scoring broke off ({type(error).__name__})"
            for item in items[done:]:
                prediction = Prediction(source, item.index, Status.UNREADABLE, reason, item.modality.name)
                yield _Scored(number, prediction, ReadError(reason), FAILED, type(error).__name__)


def _refusal(source: Source, own: list[Entry], aside: bool) -> tuple[str, str, str] | None:
    """Return status, class and reason of a source that is not opened, or None."""
    if own[0].error_class is not None:
        return str(Status.UNREADABLE), own[0].error_class, own[0].reason or ""
    if aside:
        return SET_ASIDE, "WorkerLost", "set aside: processes that had it in hand ended, see archive status"
    for entry in {entry.path: entry for entry in own}.values():
        try:
            stat = os.stat(entry.path)
        except OSError as error:
            return str(Status.UNREADABLE), _CHANGED, f"file cannot be opened any more ({error.strerror})"
        changed = (stat.st_size, stat.st_mtime_ns) != (entry.size, entry.changed)
        path = Path(os.fsdecode(entry.path))
        # another file may have its name, size and time
        if changed or (entry.instance and header_uid(path, "SOPInstanceUID") != entry.instance.strip()):
            return str(Status.UNREADABLE), _CHANGED, "file was written to since it was indexed: index it anew"
    return None


@dataclass(frozen=True)
class _Told:
    """What is kept of a slice until its source is judged."""

    prediction: Prediction  # without its map
    status: str
    error_class: str | None


def _rows_of(
    models: LoadedModels,
    source: Source,
    own: list[Entry],
    members: Iterable[_Scored],
    output_dir: Path,
    secret: str | None,
) -> tuple[list[Row], list[Path]]:
    """Return the rows of a source, and the files with its maps."""
    told: list[_Told] = []
    maps = _Maps(source, output_dir, models.settings.maps)
    with closing(maps):
        for one in members:
            prediction, piece = one.prediction, one.piece
            maps.add(prediction.index, piece, prediction.map)
            told.append(_Told(replace(prediction, map=None, content=piece.digest), one.status, one.error_class))
        paths = maps.finish()
    study = models.judge.study(source.name, [one.prediction for one in told]) if own[0].kind else None
    rows = [
        _row(models, entry, one, study, _map_of(source, entry.slice, paths, output_dir), maps.fault, secret)
        for entry, one in zip(own, told, strict=True)
    ]
    return rows, paths


class _Maps:
    """The maps of one source, if they are wanted; a fault that is not the disk's costs them alone."""

    def __init__(self, source: Source, output_dir: Path, wanted: bool) -> None:
        self._writer = MapWriter(source, output_dir) if wanted else None
        self.fault = ""

    def add(self, index: int, piece: Slice | ReadError, values: np.ndarray | None) -> None:
        self._try(lambda writer: writer.add(index, piece if isinstance(piece, Slice) else None, values))

    def finish(self) -> list[Path]:
        return self._try(MapWriter.finish) or []

    def close(self) -> None:
        if self._writer is not None:
            self._writer.abandon()

    def _try(self, do: Callable[[MapWriter], T]) -> T | None:
        if self._writer is None:
            return None
        try:
            return do(self._writer)
        except (
            FileExistsError,
            NotADirectoryError,
            IsADirectoryError,
        ) as error:  # the name is taken
            self.close()
            self._writer, self.fault = None, f"map not written ({error.strerror})"
            return None
        except OSError:
            raise
        except Exception as error:  # libraries quote values of the source, which can be the patient's name
            self.close()
            self._writer, self.fault = None, f"map not written ({type(error).__name__})"
            return None


def _map_of(source: Source, index: int, paths: Sequence[Path], output_dir: Path) -> str | None:
    """Return which of a source's files holds the map of a slice, relative to the working folder."""
    path = slice_path(output_dir / "maps", source, index, ".nii.gz") if len(paths) > 1 else next(iter(paths), None)
    return path.relative_to(output_dir.parents[1]).as_posix() if path in paths and path else None


def _row(
    models: LoadedModels,
    entry: Entry,
    one: _Told,
    study: Study | None,
    path: str | None,
    fault: str,
    secret: str | None,
) -> Row:
    p = one.prediction
    facts = models.facts(p.modality) if p.computed_by and p.modality else None
    engine, _, precision = (p.computed_by or "").partition(" ")
    scored = p.status is Status.SCORED
    return Row(
        key=key_of(entry, secret),
        input=input_of(entry, secret),
        source=entry.source,
        slice=entry.slice,
        status=one.status,
        error_class=one.error_class,
        reason="; ".join([part for part in (p.reason, fault if scored else "") if part]) or None,
        modality=p.modality,
        chosen_by=p.chosen_by and str(p.chosen_by),
        score=p.score,
        threshold=p.threshold,
        p_value=p.p_value,
        abnormal=p.abnormal,
        paper_score=p.paper_score,
        series=entry.series,
        study=entry.study,
        study_slices=study.slices if study else 0,
        study_scored=study.scored if study else 0,
        study_above=study.above if study else None,
        study_expected_above=study.expected_above if study else None,
        study_score=study.score if study else None,
        study_threshold=study.threshold if study else None,
        study_p_value=study.p_value if study else None,
        study_abnormal=study.abnormal if study else None,
        study_reason=study.withheld if study else None,
        model=facts.digest if facts else None,
        calibration=facts.calibration if facts else None,
        false_positive_rate=models.settings.false_positive_rate,
        engine=engine or None,
        precision=precision or None,
        version=__version__,
        content=p.content,
        map=path if scored else None,
    )
