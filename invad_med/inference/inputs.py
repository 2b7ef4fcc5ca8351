"""The slices of a run: what is to be scored by which model, and what is not, and why."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from invad_med.data.modalities import Modality
from invad_med.data.prediction import ChosenBy, Prediction, Status
from invad_med.data.slices import Problem, Source
from invad_med.inference.choose import choose_modality
from invad_med.inference.studies import study_of, study_of_unread
from invad_med.readers.sources import scan
from invad_med.writers.table import relative_name

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Input:
    """One slice to be scored: its source, position, its modality, and what chose that."""

    source: Source
    index: int
    modality: Modality
    chosen_by: ChosenBy


@dataclass(frozen=True)
class Inputs:
    """Everything found in a folder.

    Args:
        base: the folder.
        items: slices to be scored, those of one source together and in order.
        unscored: a `Prediction` for every slice without a model.
        problems: files that were not read.
        passed_over: what was found besides images, such as ``2 .txt file``; empty for nothing.
        keep: what must live as long as the files are needed: the folder of images fetched from a server.
    """

    base: Path
    items: tuple[Input, ...]
    unscored: tuple[Prediction, ...]
    problems: tuple[Problem, ...]
    passed_over: str = ""
    keep: object = field(default=None, repr=False, compare=False)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities of the slices to be scored, each once."""
        return tuple(dict.fromkeys(item.modality.name for item in self.items))

    @property
    def unread(self) -> list[tuple[str, str]]:
        """Name, as the table of slices has it, of each file that was not read, and the reason."""
        return [(relative_name(problem.path, self.base), problem.reason) for problem in self.problems]

    @property
    def datalist(self) -> list[dict[str, Any]]:
        """The slices to be scored as MONAI items of one key, ``image``: the `Input`."""
        return [{"image": item} for item in self.items]


def list_inputs(
    dataset_dir: str | Path, models: Collection[str], default: str | None = None, modality: str | None = None
) -> Inputs:
    """Find the images of a folder, or fetch a study, and choose each one's model.

    Args:
        dataset_dir: folder (searched below), one file, or DICOMweb address: see `invad_med.archive.dicomweb.fetch`.
        models: names of the modalities there is a model for.
        default: modality whose model scores files that say nothing of what they show.
        modality: what the user states they show; see `invad_med.inference.choose.choose_modality`.

    Raises:
        FileNotFoundError, ValueError: nothing is there, or nothing that a model is for; says what was found.
        ConnectionError: nothing can be fetched.
        ImportError: an address without the extra ``pacs``.
    """
    folder, keep, missing = Path(dataset_dir), None, list[Problem]()
    if str(dataset_dir).startswith(("http://", "https://")):
        from invad_med.archive.dicomweb import fetch

        keep, missing = fetch(str(dataset_dir))
        folder = Path(keep.name)
    found = scan(folder)
    found.problems += missing
    if found.results:
        logger.warning("%d file(s) are results of earlier runs and are passed over", found.results)
    items, unscored = assign(found.sources, models, default, modality)
    unsaid = {i.source.name for i in items if i.chosen_by is ChosenBy.DEFAULT}
    if unsaid:
        logger.warning(
            "%d input(s) do not say what they show and are scored by the default model (%s): give --modality if they "
            "show something else",
            len(unsaid),
            default,
        )
    if not items:
        reasons = sorted({p.reason or "" for p in unscored} | {p.reason for p in found.problems})
        raise ValueError(
            f"nothing in {dataset_dir} can be scored: {len(found.sources)} image source(s), {len(found.problems)} "
            f"unreadable file(s). Reasons: {'; '.join(reasons[:5])}. Models: {', '.join(sorted(models))}"
        )
    return Inputs(folder, tuple(items), tuple(unscored), tuple(found.problems), found.passed_over, keep)


def assign(
    sources: Iterable[Source], models: Collection[str], default: str | None = None, modality: str | None = None
) -> tuple[list[Input], list[Prediction]]:
    """Choose the model of each slice; return those that have one, and a prediction for each that has none.

    Args:
        sources: what was found.
        models, default, modality: as `list_inputs` takes them.
    """
    items: list[Input] = []
    unscored: list[Prediction] = []
    for source in sources:
        choice = choose_modality(source, modality, default, models)
        if choice.modality is not None and choice.chosen_by is not None and choice.modality.name in models:
            items += [Input(source, i, choice.modality, choice.chosen_by) for i in range(source.n_slices)]
            continue
        name = choice.modality.name if choice.modality else None
        reason = choice.reason or f"no model for {choice.modality.title if choice.modality else 'it'}"
        unscored += [
            Prediction(source, i, Status.NO_MODEL, reason, name, choice.chosen_by) for i in range(source.n_slices)
        ]
    return items, unscored


def share_inputs(inputs: Inputs, rank: int, processes: int, by: str | None = None) -> Inputs:
    """Return the part of ``inputs`` that one of several processes scores: every study whole, in exactly one part.

    Also what has no model or could not be read is where the rest of its study is, else in the first part.

    Args:
        inputs: everything found.
        rank: number of the process, from 0.
        processes: how many there are.
        by: what a study is, see `invad_med.inference.studies`.

    Raises:
        ValueError: fewer studies than processes.
    """
    studies = list(dict.fromkeys(study_of(item.source, by) for item in inputs.items))
    if len(studies) < processes:
        raise ValueError(f"{len(studies)} studies cannot be shared among {processes} processes: start fewer")
    mine = set(studies[rank::processes])
    if rank == 0:
        mine |= {study_of(p.source, by) for p in inputs.unscored}.difference(studies)

    def is_mine(problem: Problem) -> bool:
        name = study_of_unread(relative_name(problem.path, inputs.base), by)
        return name in mine if name in studies else rank == 0

    return replace(
        inputs,
        items=tuple(item for item in inputs.items if study_of(item.source, by) in mine),
        unscored=tuple(p for p in inputs.unscored if study_of(p.source, by) in mine),
        problems=tuple(filter(is_mine, inputs.problems)),
    )
