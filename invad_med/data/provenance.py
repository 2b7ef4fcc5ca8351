"""What a checkpoint states about itself: all that rebuilds its detector, and where it comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_OLD_NAMES = {"dataset": "modality"}  # of version 0.1
_OLD_ARCHITECTURE = ("backbone", "preset", "denoiser")  # stated beside the rest in version 0.1


@dataclass(frozen=True)
class Provenance:
    """Where a detector comes from; what is not known is None or empty.

    Args:
        architecture: what rebuilds the host, see `invad_med.hosts.host.Architecture.to_plain`.
        modality: name of what it was trained on, see `invad_med.data.modalities`.
        title: the same for people.
        denoiser_parameters: number of weights of the noise predictor.
        train_images, held_out_images: normal images learnt from, and those behind p-values and thresholds.
        selection_images: normal images that chose the weights; None: the held-out ones.
        note: what a reader of p-values and thresholds should know of how they came about.
        cross_fit_folds: number of further trainings behind the references, 0 for none.
        data_digest: of all these images, `invad_med.files.data_digest`.
        configuration_digest: of all that the training depended on.
        versions: of the packages it was trained with.
        seed, steps, batch_size, learning_rate: of the training; images a step, peak rate.
        validation: figures of the weights that were kept.
        candidates: what each inversion and rule that the score was chosen from reached on ``valid``: image AUROC,
            plus average precision of cells (both 0 to 1) where masks are known; see `invad_med.training.candidates`.
        study_candidates: AUROC of patients (0 to 1) on ``valid`` by ``highest of m``, of which the m of a study's score
            was chosen, see `invad_med.scoring.studies`.
        held_out_fraction: share of the training normals that was held out.
    """

    architecture: Mapping[str, Any] = field(default_factory=dict)
    modality: str | None = None
    title: str = ""
    denoiser_parameters: int | None = None
    train_images: int | None = None
    held_out_images: int | None = None
    selection_images: int | None = None
    cross_fit_folds: int = 0
    data_digest: str = ""
    configuration_digest: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    validation: Mapping[str, float] = field(default_factory=dict)
    candidates: Mapping[str, float] = field(default_factory=dict)
    study_candidates: Mapping[str, float] = field(default_factory=dict)
    held_out_fraction: float | None = None
    note: str = ""

    def to_state(self) -> dict[str, Any]:
        """Return plain values that a checkpoint loads safely; what is not known is left out."""
        state = dataclasses.asdict(self)
        return {name: value for name, value in state.items() if value not in (None, "", {})}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Provenance:
        """Return what a checkpoint states, of this version or of 0.1; keys that are not known are passed over."""
        values = {_OLD_NAMES.get(name, name): value for name, value in state.items()}
        if "architecture" not in values:
            values["architecture"] = {name: values[name] for name in _OLD_ARCHITECTURE if name in values}
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})

    def stated(self) -> dict[str, str | int | float]:
        """Return what is known as flat values for tables and reports: ``architecture.preset``, ``seed``, ..."""
        flat: dict[str, str | int | float] = {}
        for name, value in self.to_state().items():
            for key, part in value.items() if isinstance(value, Mapping) else [("", value)]:
                flat[f"{name}.{key}" if key else name] = part if isinstance(part, int | float) else str(part)
        return flat
