"""Weights in the layouts that others publish: read without running code, named strictly, refused with a reason."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from invad_med.hosts.records import NullPrompt
from invad_med.networks.checkpoints import load_strictly, read_checkpoint

Rules = tuple[tuple[str, str], ...]

# Of names before diffusers 0.13, which published autoencoders and pixel models still have.
OF_OLD_DIFFUSERS: Rules = (
    (r"(attentions\.\d+)\.query\.", r"\1.to_q."),
    (r"(attentions\.\d+)\.key\.", r"\1.to_k."),
    (r"(attentions\.\d+)\.value\.", r"\1.to_v."),
    (r"(attentions\.\d+)\.proj_attn\.", r"\1.to_out.0."),
)
# Of GenerativeModels, which became part of MONAI.
OF_GENERATIVE_MODELS: Rules = (
    (r"\.to_([qkv])\.", r".attn.to_\1."),
    (r"\.proj_attn\.", r".attn.out_proj."),
    (r"\.to_out\.0\.", r".out_proj."),
    (r"\.conv\.conv\.", r".postconv.conv."),
)


def read_weights(path: str | Path) -> dict[str, Any]:
    """Return a state dict: safetensors, an index of several of them, or a checkpoint that loads without pickled code.

    One that is nested as ``state_dict`` or ``model`` is taken out.

    Raises:
        FileNotFoundError, ValueError: no such file, or one that is no such thing.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"weights {path} do not exist")
    if path.name.endswith(".index.json"):
        files = sorted(set(json.loads(path.read_text())["weight_map"].values()))
        return {name: value for file in files for name, value in read_weights(path.parent / Path(file).name).items()}
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except SafetensorError as error:
            raise ValueError(f"weights {path} cannot be read ({error}); is it a whole file?") from error
    content = read_checkpoint(path)
    for key in ("state_dict", "model"):
        if isinstance(content.get(key), dict):
            return dict(content[key])
    return content


def with_weights(module: nn.Module, path: str | Path) -> nn.Module:
    """Return ``module`` with the weights of a file, for a configuration that makes a network and loads it.

    Args:
        module: of the architecture that was trained.
        path: as of `read_weights`; every name and shape must fit.

    Raises:
        FileNotFoundError, ValueError: no such file, or weights of another network.
    """
    load_strictly(module, read_weights(path))
    return module


def renamed(tensors: Mapping[str, Any], own: Collection[str], rules: Rules) -> dict[str, Any]:
    """Return tensors by the names that a network has; one that no rule brings to such a name keeps its own.

    Args:
        tensors: as stored.
        own: names of the network.
        rules: patterns and what replaces them.
    """
    result: dict[str, Any] = {}
    for name, value in tensors.items():
        candidates = [name, *(re.sub(pattern, replacement, name) for pattern, replacement in rules)]
        result[next((candidate for candidate in candidates if candidate in own), name)] = value
    return result


def read_prompt(path: str | Path) -> NullPrompt:
    """Return the embedding that a file holds: one tensor (L, D) or (1, L, D), of safetensors or ``torch.save``.

    Raises:
        FileNotFoundError, ValueError: no such file, or another content.
    """
    content = read_weights(path)
    tensors = [value for value in content.values() if isinstance(value, Tensor)]
    if len(tensors) != 1 or tensors[0].ndim not in (2, 3) or (tensors[0].ndim == 3 and len(tensors[0]) != 1):
        raise ValueError(
            f"{path} must hold one tensor in a dictionary, the embedding (L, D) of a prompt: {len(tensors)} are there, "
            f"{', '.join(str(tuple(tensor.shape)) for tensor in tensors) or 'of no shape'}"
        )
    return NullPrompt(tensors[0].reshape(tensors[0].shape[-2:]).float())


_AS_A_FUNCTION = "build its network with its authors' code and give it to invad_med.hosts.from_callable"


def why_not(content: Mapping[str, Any]) -> str:
    """Return why a checkpoint in one file is no host, by the names that it holds."""
    inner: Any = next((content[key] for key in ("state_dict", "model") if isinstance(content.get(key), dict)), content)

    def has(*parts: str) -> bool:
        return all(any(part in name for name in inner) for part in parts)

    if has("control_model.", "model.diffusion_model."):
        return (
            "it is of DiAD, whose semantic-guided network is in no package: " + _AS_A_FUNCTION + ", with "
            "conditioning=ImageHint(), encode=the autoencoder's mean, scale_factor=0.18215, pixels with ImageNet's "
            "mean and std, and its scaled_linear schedule"
        )
    if {"model_state_dict", "ema"} <= content.keys():
        return (
            "it is of AnoDDPM, whose network is in no package: " + _AS_A_FUNCTION + ", with size=256, channels=1 and, "
            'where it was trained so, noise="simplex"; the paper\'s likelihood is then withheld'
        )
    if has("mt_out"):
        return "it is of MAD-AD, which predicts an image and a mask, and whose code and weights have no licence"
    if has("cond_stage_model.embedding.weight", "input_blocks."):
        return (
            "it is of DeCo-Diff, which predicts the deviation from the normal image and no noise: its walk does not "
            "end in N(0, I), and the length of the deviation is its own score"
        )
    if has("diffusion.model."):
        return "it is of cDDPM or pDDPM, which have no licence: " + _AS_A_FUNCTION + ' with prediction="sample"'
    if has("final_layer.linear", "blocks.0."):
        return (
            "it is a noise predictor over features, as InvAD's authors publish: load it into the denoiser of a "
            "FeatureHost by invad_med.networks.load_denoiser"
        )
    return (
        "it is of no layout that is known: make its networks, load its weights, and give them to "
        "invad_med.hosts.from_diffusers, from_monai or from_callable"
    )
