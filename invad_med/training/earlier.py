"""What an earlier training left: whether a model that is there is of it, and how it divided the images."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from invad_med.detection import read_provenance
from invad_med.networks.checkpoints import read_checkpoint
from invad_med.training.cohort import Division
from invad_med.training.configuration import configuration_digest


def why_not_of(model: Path, state: Path) -> str | None:
    """Return why a model that is there is not what a training left, or None: the training then compares the rest.

    Args:
        model: the checkpoint.
        state: ``last.pt`` of the training that would go on.
    """
    if not state.is_file():
        return (
            f"{model} is there, and {state.parent} does not hold the training that it is of: delete or move the model"
        )
    try:
        stated = read_provenance(model).configuration_digest
        trained = configuration_digest(read_checkpoint(state, mmap=True)["configuration"])
    except (ValueError, KeyError) as error:
        return f"{model} is there, and cannot be compared with its training in {state.parent}: {error}"
    return (
        None if stated == trained else f"{model} is of another training than {state.parent}: delete or move the model"
    )


def division_of(state: Path) -> Division:
    """Return how a training divided its data set's images.

    Args:
        state: its ``last.pt``.

    Raises:
        FileNotFoundError, ValueError: it is not there, or does not say.
    """
    configuration = read_checkpoint(state, mmap=True).get("configuration", {})
    names = [field.name for field in dataclasses.fields(Division)]
    missing = [name for name in names if f"division.{name}" not in configuration]
    if missing:
        raise ValueError(f"{state} does not say how its images were divided ({', '.join(missing)}): train anew")
    return Division(**{name: configuration[f"division.{name}"] for name in names})
