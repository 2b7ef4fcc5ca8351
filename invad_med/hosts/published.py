"""A published model by its path alone, as configurations and commands name it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from invad_med.hosts.adapted import AdaptedHost
from invad_med.hosts.diffusers_folders import is_diffusers_folder, read_diffusers
from invad_med.hosts.host import Host
from invad_med.hosts.monai_zoo import ZOO, read_monai_zoo
from invad_med.hosts.records import ClassLabel
from invad_med.hosts.weights import read_prompt, why_not
from invad_med.networks.checkpoints import read_checkpoint


def read_host(
    path: str | Path,
    *,
    prompt: str | Path | None = None,
    label: int | None = None,
    network_file: str | Path | None = None,
    vae_folder: str | Path | None = None,
    name: str | None = None,
    **others: Any,
) -> AdaptedHost:
    """Return the host that a folder holds: of diffusers, or of MONAI's Model Zoo.

    Args:
        path: folder.
        prompt: file of the embedding of the prompt that a model with cross-attention is conditioned on.
        label: class that a model with classes is conditioned on.
        network_file, vae_folder: as of `read_diffusers`: weights in the place of the folder's.
        name: of a model of the zoo, where the folder has another.
        others: ``size``, ``scale_factor``, ``licence`` and others of `from_diffusers` or `from_monai`.

    Raises:
        FileNotFoundError: there is no such path, or a part is missing.
        ValueError: a layout that is not known, or cannot be a host, with the reason.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"host {path} does not exist: give a folder of diffusers or of MONAI's Model Zoo")
    if path.is_file():
        raise ValueError(f"{path} cannot be made a host: {why_not(read_checkpoint(path))}")
    if name is not None or path.resolve().name in ZOO:
        of_diffusers = {"prompt": prompt, "label": label, "network_file": network_file, "vae_folder": vae_folder}
        not_taken = [key for key, value in of_diffusers.items() if value is not None]
        if not_taken:
            raise ValueError(f"a model of MONAI's Model Zoo takes no {', '.join(not_taken)}: leave it out")
        return read_monai_zoo(path, name, **others)
    if not is_diffusers_folder(path):
        raise ValueError(
            f"{path} is no folder of diffusers (config.json, unet or transformer) and none of MONAI's Model Zoo that "
            f"is known ({', '.join(ZOO)}; give name if the folder is called otherwise)"
        )
    if prompt is not None and label is not None:
        raise ValueError("a model is conditioned on a prompt or on a class: give one of prompt and label")
    conditioning = read_prompt(prompt) if prompt is not None else None if label is None else ClassLabel(label)
    return read_diffusers(path, conditioning, network_file=network_file, vae_folder=vae_folder, **others)


def as_host(host: Host | str | Path) -> Host:
    """Return a host as it is, or the one that a path names, see `read_host`.

    Raises:
        FileNotFoundError, ValueError: as of `read_host`.
    """
    return host if isinstance(host, Host) else read_host(host)
