"""One exchange by folders: images in one, results in another, as mercure and MONAI Application Packages run programs.

| file | where | of mercure |
|---|---|---|
| ``task.json`` | with the images | ``process.settings`` are what a rule and its module set for this step |
| ``SERIES#INSTANCE.dcm`` | results | every ``*.dcm`` of that folder is sent, or is what the next step is given |
| ``result.json`` | results | read where the exit status is 0; ``__mercure_notification`` in it is for messages |

Results are made elsewhere and get their names at the end, one right after the other. Nothing names a patient but what
the DICOM objects hold.
"""

from __future__ import annotations

import difflib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from invad_med import __version__
from invad_med.data.prediction import Status
from invad_med.files import flush, partial_of, remove_partials, write_durably
from invad_med.inference.results import SourceWriter
from invad_med.inference.run import RunOptions, load_models, score_with
from invad_med.node.instances import instance_of
from invad_med.node.scoring import NotWritten, reasons_of, require_objects, require_sendable
from invad_med.readers.dicom.headers import header_uid
from invad_med.readers.dicom.own import RESEARCH

TASK, RESULT = "task.json", "result.json"


@dataclass(frozen=True)
class Result:
    """What came of an exchange, without anything that says who the patient is.

    Args:
        objects: DICOM objects in the folder of results.
        slices: how many slices there are by what became of them, see `invad_med.data.prediction.Status`.
        slices_above: how many of those scored lie above the threshold of a slice.
        studies: series and single files: how many there are.
        studies_above: how many of them lie above the threshold of a study.
        studies_withheld: how many have no verdict.
        p_value: the lowest of them, None if there is none.
        reasons: why slices are without a score, or objects without being made; the most frequent.
    """

    objects: int
    slices: Mapping[str, int]
    slices_above: int
    studies: int
    studies_above: int
    studies_withheld: int
    p_value: float | None
    reasons: Sequence[str]

    @property
    def text(self) -> str:
        """The result in a sentence."""
        withheld = f", {self.studies_withheld} without a verdict" if self.studies_withheld else ""
        slices = ", ".join(f"{count} {status}" for status, count in self.slices.items())
        return (
            f"{self.studies_above} of {self.studies} series above threshold{withheld}; slices: {slices}; "
            f"{self.objects} DICOM objects. {RESEARCH}."
        )


def read_settings(folder: Path, names: Collection[str]) -> Mapping[str, Any]:
    """Return the settings of this step that ``task.json`` of a folder holds; none if there is no such file.

    Args:
        folder: of the images.
        names: that there are.

    Raises:
        ValueError: it is no task, or has a setting of another name.
    """
    path = folder / TASK
    if not path.is_file():
        return {}
    try:
        task = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise ValueError(f"{TASK} is no JSON; remove it, or let mercure write it") from None
    if not isinstance(task, dict) or "process" not in task:
        raise ValueError(f"{TASK} has no process, which holds the settings: remove the file, or let mercure write it")
    step = task["process"]
    if isinstance(step, list):
        if len(step) > 1:
            raise ValueError(f"process in {TASK} has {len(step)} steps: one is expected, which this run is")
        step = step[0] if step else None
    if step is not None and not isinstance(step, dict):
        raise ValueError(f"process in {TASK} is no object with settings")
    settings = step.get("settings") if step else None
    if not isinstance(settings or {}, dict):
        raise ValueError(f'process.settings in {TASK} is no object such as {{"modality": "brain"}}')
    for name in settings or {}:
        if name not in names:
            close = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"
            raise ValueError(f"process.settings in {TASK} has {name!r}, which is no setting: {hint}")
    return settings or {}


def exchange(images: Path, results: Path, options: RunOptions, settings: str) -> Result:
    """Score the images of one folder and leave DICOM objects and ``result.json`` in another.

    Args:
        images: searched below; results of this program are passed over.
        results: is made if need be; what is there already must not be sent with other images' results.
        options: of the run, but for the folders.
        settings: what shapes the results, as text.

    Raises:
        ValueError, FileNotFoundError, ImportError: no object can be made; says why, and names no patient.
        NotWritten: results could not be written; of them nothing is left.
        OSError: a folder cannot be read or written to.
    """
    require_objects(options)
    with tempfile.TemporaryDirectory(prefix="invad-") as work:
        options = replace(options, dataset_dir=str(images), output_dir=work, report=False, deterministic_uids=True)
        writer = score_with(load_models(options), options, settings)
        objects = sorted(Path(work).glob("dicom/**/*.dcm"))
        require_sendable(writer, objects)
        patients = patients_of({path for item in writer.inputs.items for path in item.source.paths})
        if not options.anonymize:
            _require_known(objects, patients)
        result = _result_of(writer, len(objects))
        _publish({_name_of(path): path for path in objects}, results, result)
    return result


def patients_of(images: Iterable[Path]) -> Mapping[str, tuple[str, ...]]:
    """Return whose each study is, by Study Instance UID, see `invad_med.node.instances.Instance`.

    Args:
        images: files, of which those that are no DICOM are nobody's.

    Raises:
        ValueError: a study is of several patients.
    """
    result: dict[str, tuple[str, ...]] = {}
    for found in map(instance_of, images):
        if found is not None and result.setdefault(found.study, found.patient) != found.patient:
            raise ValueError(
                "images of one study name several patients (ID, issuer or birth date, the name where there is no ID): "
                "correct or separate them; no result is left"
            )
    return result


def write_failure(results: Path, reason: str) -> None:
    """Leave a ``result.json`` that says why there is nothing else.

    Raises:
        OSError: it cannot be written.
    """
    results.mkdir(parents=True, exist_ok=True)
    if earlier := len(list(results.glob("*.dcm"))):
        reason += f"; {earlier} .dcm files are there from before, and none of this run"
    _write(results / RESULT, {"status": "failed", "reason": reason, "objects": 0})


def begin(results: Path) -> None:
    """Remove what an earlier run left but its objects: ``result.json`` says of a run that it came to its end.

    Raises:
        OSError: that fails.
    """
    (results / RESULT).unlink(missing_ok=True)
    remove_partials(results)


def _require_known(objects: Iterable[Path], patients: Mapping[str, tuple[str, ...]]) -> None:
    """Raise ValueError if an object is of a study or patient that no image is of; one of a PNG is of nobody."""
    for found in map(instance_of, objects):
        if found is None or (any(found.patient) and patients.get(found.study, ())[:1] != found.patient[:1]):
            raise ValueError("a result is of another study or patient than the images: nothing is left")


def _result_of(writer: SourceWriter, objects: int) -> Result:
    predictions = [*writer.predictions, *writer.inputs.unscored]
    counts = Counter(str(p.status) for p in predictions)
    counts[str(Status.UNREADABLE)] += len(writer.inputs.problems)
    verdicts = [study.abnormal for study in writer.studies]
    return Result(
        objects,
        {str(status): counts[str(status)] for status in Status if counts[str(status)]},
        sum(bool(p.abnormal) for p in predictions),
        len(verdicts),
        verdicts.count(True),
        verdicts.count(None),
        min((study.p_value for study in writer.studies if study.p_value is not None), default=None),
        reasons_of(writer),
    )


def _name_of(path: Path) -> str:
    return f"{header_uid(path, 'SeriesInstanceUID')}#{header_uid(path, 'SOPInstanceUID')}.dcm"


def _publish(objects: Mapping[str, Path], results: Path, result: Result) -> None:
    """Put objects and ``result.json`` into a folder, all of them or none.

    Raises:
        ValueError: other DICOM files are there, which would be sent too.
        NotWritten: they cannot be written.
    """
    if others := {path.name for path in results.glob("*.dcm")} - objects.keys():
        raise ValueError(
            f"the folder of results holds {len(others)} other .dcm files, which would be sent as well: "
            "give an empty folder; nothing is left"
        )
    notification = {"text": result.text, "requested": result.studies_above > 0}
    parts: dict[Path, Path] = {}
    placed: list[Path] = []
    try:
        for name, path in objects.items():
            part = partial_of(results / name)
            parts[results / name] = part
            shutil.copyfile(path, part)
            flush(part)
        for final, part in parts.items():
            placed.append(final)
            os.replace(part, final)
        content = {"status": "done", **asdict(result), "version": __version__, "__mercure_notification": notification}
        _write(results / RESULT, content)
    except BaseException as error:  # also the end of the process by a signal
        for path in [*placed, results / RESULT]:
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise NotWritten(f"results not written ({error.strerror or 'input or output error'})", False) from None
        raise
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    write_durably(path, json.dumps(content, indent=1).encode())
