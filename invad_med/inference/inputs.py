"""The slices of a run: what is to be scored by which model, and what is not, and why."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from invad_med.data.datasets import DatasetFacts
from invad_med.data.prediction import Prediction
from invad_med.data.slices import Problem, Source
from invad_med.inference.choose import choose_dataset
from invad_med.readers.sources import scan

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Input:
    """One slice to be scored: its source, position, the data set of its model, and what chose that."""

    source: Source
    index: int
    facts: DatasetFacts
    chosen_by: str


@dataclass(frozen=True)
class Inputs:
    """Everything found in a folder.

    Args:
        base: the folder.
        items: slices to be scored, those of one source together and in order.
        unscored: a `Prediction` for every slice without a model.
        problems: files that were not read.
        keep: what must live as long as the files are needed: the folder of images fetched from a server.
    """

    base: Path
    items: tuple[Input, ...]
    unscored: tuple[Prediction, ...]
    problems: tuple[Problem, ...]
    keep: object = field(default=None, repr=False, compare=False)

    @property
    def datalist(self) -> list[dict[str, Any]]:
        """The slices to be scored as MONAI items: ``image`` (the `Input`) and ``item``, its position in ``items``."""
        return [{"image": item, "item": position} for position, item in enumerate(self.items)]


def list_inputs(
    dataset_dir: str | Path, models: Collection[str], default: str | None = None, modality: str | None = None
) -> Inputs:
    """Find the images of a folder, or fetch a study, and choose each one's model.

    Args:
        dataset_dir: folder (searched below), one file, or DICOMweb address: see `invad_med.archive.dicomweb.fetch`.
        models: names of the data sets there is a model for.
        default: data set whose model scores files that say nothing of what they show.
        modality: data set that the user states; see `choose_dataset`.

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
    items: list[Input] = []
    unscored: list[Prediction] = []
    for source in found.sources:
        choice = choose_dataset(source, modality, default)
        if choice.facts is not None and choice.facts.name in models:
            items += [Input(source, i, choice.facts, str(choice.chosen_by)) for i in range(source.n_slices)]
            continue
        name = choice.facts.name if choice.facts else None
        reason = choice.reason or f"no model for {choice.facts.title if choice.facts else 'it'}"
        unscored += [Prediction(source, i, "no model", reason, name, choice.chosen_by) for i in range(source.n_slices)]
    unsaid = {i.source.name for i in items if i.chosen_by == "default"}
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
    return Inputs(folder, tuple(items), tuple(unscored), tuple(found.problems), keep)


def share_inputs(inputs: Inputs, rank: int, processes: int) -> Inputs:
    """Return the part of ``inputs`` that one of several processes scores: every source whole, in exactly one part.

    What has no model or could not be read is in the first part.

    Args:
        inputs: everything found.
        rank: number of the process, from 0.
        processes: how many there are.

    Raises:
        ValueError: fewer sources than processes.
    """
    sources = list(dict.fromkeys(item.source for item in inputs.items))
    if len(sources) < processes:
        raise ValueError(f"{len(sources)} image source(s) cannot be shared among {processes} processes: start fewer")
    mine = set(sources[rank::processes])
    items = tuple(item for item in inputs.items if item.source in mine)
    first = rank == 0
    return replace(
        inputs, items=items, unscored=inputs.unscored if first else (), problems=inputs.problems if first else ()
    )
