"""What a run's result depends on, as flat plain values: to refuse another run's state, and to state in the artefact."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from invad_med.detection.host import Host
from invad_med.files import data_digest
from invad_med.training.cohort import Cohort


def describe_run(cohort: Cohort, host: Host, optimizer: Optimizer, **values: Any) -> dict[str, Any]:
    """Return the configuration of a run: digests of its data and networks, the optimiser's settings, and ``values``."""
    described = {
        "dataset": cohort.modality.name,
        "train_images": data_digest(cohort.train),
        "held_out_images": data_digest(cohort.held_out),
        "abnormal_images": data_digest(cohort.abnormal),
        **{f"architecture.{name}": value for name, value in host.architecture.to_plain().items()},
        "encoder_digest": host.encoder_digest()[:16],
        "denoiser_parameters": sum(p.numel() for p in host.denoiser.parameters()),
        "optimizer": type(optimizer).__name__,
    }
    described |= {f"optimizer.{name}": value for name, value in optimizer.defaults.items()}
    return {name: plain(value) for name, value in (described | values).items()}


def plain(value: Any) -> Any:
    """Return a value that a checkpoint loads safely: None, bool, number, string, or lists of these."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value)


def configuration_digest(configuration: Mapping[str, Any]) -> str:
    """Return a digest of plain values that does not depend on their order: 16 hex digits."""
    return hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()[:16]
