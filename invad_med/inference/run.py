"""Runs over folders without MONAI: what ``configs/inference.json`` does, by the same parts.

`score` is one run; `load_models` and `score_with` are its halves, for whoever scores folder after folder with the same
models.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

from tqdm import tqdm

from invad_med.bundle import root
from invad_med.detection import Detectors, model_files
from invad_med.detection.serve import usual_device
from invad_med.inference.ahead import AHEAD, ahead
from invad_med.inference.inputs import list_inputs
from invad_med.inference.pipeline import score_inputs
from invad_med.inference.progress import Progress
from invad_med.inference.results import INCOMPLETE, SourceWriter, Store
from invad_med.inference.studies import StudyJudge
from invad_med.writers.dicom.export import DicomWriter
from invad_med.writers.dicom.report import History
from invad_med.writers.report.writer import ReportWriter


@dataclass(frozen=True)
class RunOptions:
    """The plain keys of ``inference.json``; what is None there by default, or made of others, may be None."""

    output_dir: str
    false_positive_rate: float
    gate: bool
    dicom_out: Sequence[str] | str | None
    anonymize: bool
    report: bool
    deterministic_uids: bool
    batch_size: int
    overwrite: bool
    dataset_dir: str | None = None
    ckpt_path: str | None = None
    modality: str | None = None
    study_by: str | None = None
    dicom_destination: str | None = None
    device: str | int | None = None
    engine: str | None = None


def score(options: RunOptions, settings: str) -> int:
    """Score and write all that is asked for; return 0, or `INCOMPLETE`.

    Args:
        options: of the run.
        settings: what shapes the results, as text, see `invad_med.inference.progress.Progress`.

    Raises:
        FileNotFoundError, ValueError, ConnectionError, ImportError, OSError: nothing can be scored, or not so.
    """
    writer = score_with(load_models(options), options, settings, shown=True)
    print(writer.summary())
    return INCOMPLETE if writer.incomplete else 0


def load_models(options: RunOptions) -> Detectors:
    """Return the models of a run, each of which loads when it is first needed.

    Raises:
        FileNotFoundError, ValueError, ImportError: they are not there, or cannot be used so.
    """
    bundle = root()
    files = model_files(options.ckpt_path or f"{bundle}/models/model.pt", f"{bundle}/models", options.modality)
    device = usual_device() if options.device is None else options.device
    return Detectors(files, None, None, options.engine, device, options.false_positive_rate, options.gate)


def score_with(
    models: Detectors,
    options: RunOptions,
    settings: str,
    history: Mapping[str, History] | None = None,
    shown: bool = False,
) -> SourceWriter:
    """Score and write all that is asked for; return what knows how that went.

    Args:
        models: of `load_models`.
        options, settings: as `score`.
        history: by Series Instance UID earlier DICOM reports, see `invad_med.writers.dicom.export.DicomWriter`.
        shown: show a bar.

    Raises:
        FileNotFoundError, ValueError, ConnectionError, ImportError, OSError: nothing can be scored, or not so.
    """
    kinds, uids = options.dicom_out or (), options.deterministic_uids
    dicom = DicomWriter(options.output_dir, kinds, options.anonymize, uids, history)
    judge = StudyJudge(models, options.study_by)
    store: Store | None = None
    if options.dicom_destination:
        from invad_med.archive.dicomweb import Destination

        store = Destination(options.dicom_destination)
    dataset_dir = options.dataset_dir or f"{root()}/sample"
    inputs = list_inputs(dataset_dir, models.names, models.default, options.modality)
    mark = settings + dicom.secret_mark
    progress = Progress(options.output_dir, inputs, mark, models.files.files, options.overwrite, options.batch_size)
    report = ReportWriter(anonymize=options.anonymize) if options.report else None
    writer = SourceWriter(progress, dicom, models.provenance, store, judge, report)
    todo, count = progress.todo, len(progress.todo.items)
    with closing(ahead(score_inputs(models, todo, options.batch_size), AHEAD)) as results, writer:
        bar = tqdm(results, desc="scoring", unit="slice", total=count, file=sys.stderr, disable=not shown)
        for prediction, piece in bar:
            writer.take(prediction, piece)
    return writer
