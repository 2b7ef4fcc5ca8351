"""What every key of the configurations takes."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any


class Kind(str, Enum):
    """What a key takes.

    PATH is a folder or file, NAME any other word that is taken as it stands, WORDS a list of names, SWITCH on or off,
    PART a piece of the configuration (a component, an expression): MONAI's own syntax.
    """

    PATH = "a path"
    NAME = "a name"
    WORDS = "a list of names"
    SWITCH = "true or false"
    NUMBER = "a number"
    PART = "a part of the configuration"
    __str__ = str.__str__


_KEYS = {
    Kind.PATH: "bundle_root cache_dir ckpt_path dataset_dir models_dir output_dir",
    Kind.NAME: "backbone device dicom_destination engine experiment_name fold merge modality precision preset "
    "registered_model_name rule run_name split study_by tracking_uri",
    Kind.WORDS: "dicom_out",
    Kind.SWITCH: "activation_checkpointing anonymize augment baselines compiled deterministic_uids fully_sharded "
    "gate mlflow overwrite report resume select_by_auroc",
    Kind.NUMBER: "accumulation_steps batch_size cache_limit_gb checkpoint_interval false_positive_rate gradient_norm "
    "held_out_fraction image_size learning_rate patience resamples seed selection_fraction steps train_fraction "
    "val_interval warmup_steps",
    Kind.PART: "denoiser denoiser_whole dtype features focus gpu host inverted max_epochs network other_timesteps "
    "part plan rank shared_inputs total_iterations trained",
}
KINDS: dict[str, Kind] = {key: kind for kind, keys in _KEYS.items() for key in keys.split()}

# Arguments of components that are paths or names as well: ``--log#path``, ``--inferer#mode``.
_ARGUMENTS = {"path": Kind.PATH, "checkpoint": Kind.PATH, "destination": Kind.NAME, "mode": Kind.NAME}

# May be nothing although it has a default.
_MAY_BE_NOTHING = {"cache_dir", "dicom_out"}


def find_kind(key: str) -> Kind:
    """Return the kind of a key, or of the argument that an id such as ``network::models_dir`` ends in."""
    last = key.rpartition("::")[2]
    return KINDS.get(last) or (_ARGUMENTS.get(last) if last != key else None) or Kind.PART


def may_be_nothing(key: str, own: Mapping[str, Any]) -> bool:
    """Return whether ``null`` means nothing to a key: where that is its default in the configuration ``own``."""
    return key in _MAY_BE_NOTHING or (key in own and own[key] is None)
