"""One run over a folder without MONAI: what ``configs/inference.json`` does, by the same parts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
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
    bundle = root()
    dicom = DicomWriter(options.output_dir, options.dicom_out or (), options.anonymize, options.deterministic_uids)
    files = model_files(options.ckpt_path or f"{bundle}/models/model.pt", f"{bundle}/models", options.modality)
    device = usual_device() if options.device is None else options.device
    models = Detectors(files, None, None, options.engine, device, options.false_positive_rate, options.gate)
    judge = StudyJudge(models, options.study_by)
    store: Store | None = None
    if options.dicom_destination:
        from invad_med.archive.dicomweb import Destination

        store = Destination(options.dicom_destination)
    dataset_dir = options.dataset_dir or f"{bundle}/sample"
    inputs = list_inputs(dataset_dir, models.names, models.default, options.modality)
    mark = settings + dicom.secret_mark
    progress = Progress(options.output_dir, inputs, mark, files.files, options.overwrite, options.batch_size)
    report = ReportWriter(anonymize=options.anonymize) if options.report else None
    writer = SourceWriter(progress, dicom, models.provenance, store, judge, report)
    todo = progress.todo
    with closing(ahead(score_inputs(models, todo, options.batch_size), AHEAD)) as results, writer:
        for prediction, piece in tqdm(results, desc="scoring", unit="slice", total=len(todo.items), file=sys.stderr):
            writer.take(prediction, piece)
    print(writer.summary())
    return INCOMPLETE if writer.incomplete else 0
