"""What is taken down of an evaluation, as plain values: written beside the results, so that it can be logged later."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from invad_med.evaluation.tracker import RECORD
from invad_med.files import write_atomically

FILE = RECORD


@dataclass(frozen=True)
class DatasetRun:
    """One data set: name, tags, parameters, metrics, and texts (pictures as SVG) by file name."""

    name: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    texts: Mapping[str, str]


@dataclass(frozen=True)
class Registration:
    """A bundle to register as a model.

    Args:
        name: of the registered model.
        bundle_root: folder of the bundle.
        models: modality -> checkpoint.
        default: the modality among them that scores images which do not say what they show.
    """

    name: str
    bundle_root: str
    models: Mapping[str, str]
    default: str


@dataclass(frozen=True)
class RunRecord:
    """A run over data sets.

    Args:
        name, description, tags, params, metrics: of the parent run.
        files: tables and report among the results, relative to their folder.
        config: what it was run with.
        datasets: a nested run each.
        experiment_name: where it belongs.
        tracking_uri: as the run was given it, None for none; no password is in it.
        registration: what to register with it, or None.
    """

    name: str
    description: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    files: tuple[str, ...]
    config: Mapping[str, Any]
    datasets: tuple[DatasetRun, ...]
    experiment_name: str
    tracking_uri: str | None = None
    registration: Registration | None = field(default=None)

    def write(self, output_dir: Path) -> Path:
        """Write it into the folder of the results and return its path."""
        path = output_dir / FILE
        write_atomically(path, (json.dumps(dataclasses.asdict(self), indent=1, allow_nan=False) + "\n").encode())
        return path

    @classmethod
    def read(cls, output_dir: Path) -> RunRecord:
        """Read what `write` wrote.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged, or another version's.
        """
        path = output_dir / FILE
        if not path.is_file():
            raise FileNotFoundError(f"{output_dir} holds no {FILE}: is it the output folder of an evaluation?")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            given = values.pop("registration")
            datasets = tuple(DatasetRun(**row) for row in values.pop("datasets"))
            files = tuple(values.pop("files"))
            return cls(**values, files=files, datasets=datasets, registration=Registration(**given) if given else None)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} cannot be read as the record of an evaluation ({error})") from None
