"""Scoring for a node: the one pipeline, with models that stay loaded from study to study."""

from __future__ import annotations

import errno
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pydicom

from invad_med.data.prediction import without_distance
from invad_med.inference.results import SourceWriter
from invad_med.inference.run import RunOptions, load_models, score_with
from invad_med.node.store import State, Store, Version, inodes
from invad_med.readers.dicom.headers import header_uid
from invad_med.writers.dicom.export import KINDS, DicomWriter
from invad_med.writers.dicom.report import Edition, History

_FULL = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


class NotWritten(Exception):
    """Results that could not be written, in words that name no patient.

    Args:
        reason: why.
        full: whether the disk had no room, which waiting may help.
    """

    def __init__(self, reason: str, full: bool) -> None:
        super().__init__(reason)
        self.full = full


class Resident:
    """Scores versions of studies as ``python -m invad_med score`` does the folder of their images.

    Args:
        store: where they lie.
        options: of each run, but for the folders.
        settings: what shapes the results, as text.

    Raises:
        FileNotFoundError, ValueError, ImportError: the models are not there, or nothing would be sent.
    """

    def __init__(self, store: Store, options: RunOptions, settings: str) -> None:
        require_objects(options)
        self.store, self.options, self.settings = store, options, settings
        self.models = load_models(options)
        self.models.detector(self.models.default)  # before the first study comes

    def __call__(self, version: Version) -> str:
        """Score a version, or the rest of it; return what came of it in a few words.

        Raises:
            ValueError: no object can be made of it; says why, and names no patient.
            NotWritten: results could not be written.
            OSError: the folder cannot be written to.
        """
        options = replace(self.options, dataset_dir=str(version.images), output_dir=str(version.results))
        writer = score_with(self.models, options, self.settings, history_of(self.store, version))
        require_sendable(writer, version.objects)
        return f"{len(version.objects)} objects; {writer.summary().partition(' (reasons')[0]}"


def require_objects(options: RunOptions) -> None:
    """Raise ValueError if a run makes no DICOM objects, or not of such kinds."""
    if not DicomWriter(options.output_dir, options.dicom_out or (), options.anonymize, True).kinds:
        raise ValueError(f"dicom_out names no object, so that nothing would be sent; there are {', '.join(KINDS)}")


def require_sendable(writer: SourceWriter, objects: Sequence[Path]) -> None:
    """Raise if what a run left is not to be sent.

    Args:
        writer: of the run.
        objects: DICOM objects that it left.

    Raises:
        ValueError: no object can be made; says why, and names no patient.
        NotWritten: results could not be written.
    """
    if writer.faults:
        reason = "; ".join(writer.faults)
        raise NotWritten(reason, any(words in reason for words in _FULL))
    if not objects:
        raise ValueError(f"no object can be made: {'; '.join(reasons_of(writer)) or 'nothing was scored'}")


def reasons_of(writer: SourceWriter) -> list[str]:
    """Return why a run scored or wrote less than it was given: three reasons at most, the most frequent first."""
    inputs, earlier = writer.inputs, writer.progress.earlier.values()
    predictions = [*writer.predictions, *inputs.unscored, *(p for done in earlier for p in done.predictions)]
    refused = [reason for _, reason in [*writer.refused, *(pair for done in earlier for pair in done.refused)]]
    reasons = Counter(
        [without_distance(p.reason) for p in predictions if p.reason] + [p.reason for p in inputs.problems] + refused
    )
    return [reason for reason, _ in reasons.most_common(3)]


def history_of(store: Store, version: Version) -> Mapping[str, History]:
    """Return by Series Instance UID the reports that the versions before hold of a version's series."""
    before = store.versions(version.study)[: version.number - 1]
    earlier: dict[str, list[Edition]] = {}
    for other in (v for v in before if v.state in (State.SCORED, State.SENT)):
        counts, reports = series_of(other), defaultdict[str, list[Path]](list)
        for path in (path for path in other.objects if path.name == "report.dcm"):
            for uid in _evidence(path):
                reports[uid].append(path)
        for uid, paths in reports.items():
            earlier.setdefault(uid, []).append(Edition(other.number, counts[uid], tuple(paths)))
    now = series_of(version)
    return {
        uid: History(Edition(version.number, now[uid]), tuple(editions))
        for uid, editions in earlier.items()
        if uid in now
    }


def _evidence(report: Path) -> set[str]:
    """Return the Series Instance UIDs of the images that a report is of."""
    ds = pydicom.dcmread(report, specific_tags=["CurrentRequestedProcedureEvidenceSequence"])
    studies = ds.get("CurrentRequestedProcedureEvidenceSequence") or []
    return {str(series.SeriesInstanceUID) for study in studies for series in study.ReferencedSeriesSequence}


def series_of(version: Version) -> Counter[str]:
    """Return how many images of each Series Instance UID a version is made of."""
    return Counter(header_uid(version.images / name, "SeriesInstanceUID") for name in inodes(version.images))
