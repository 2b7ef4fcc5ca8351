"""Make the graphs that the package ships: those of the preset ``cpu``, of every walk and rule of a training.

To be run in a checkout after a change to what a detector computes, see docs/engines.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from invad_med.detection.export import export_graph
from invad_med.detection.host import FeatureHost
from invad_med.files import write_atomically
from invad_med.networks import FrozenFeatures, create_denoiser
from invad_med.networks.presets import PRESETS
from invad_med.scoring.rules import MENU
from invad_med.serving.graph import GraphKey, shipped_path
from invad_med.training.candidates import usual_walks

EXAMPLES = """\
  python -m invad_med graphs  # then run the tests of tests/serving
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments: it has none."""


def run(options: argparse.Namespace) -> int:
    """Write the graphs into the package."""
    paths = []
    for key in shipped_keys():
        path = shipped_path(key)
        write_atomically(path, export_graph(key).to_bytes(key))
        print(f"{path}: {key.timesteps}, {key.rule}")
        paths.append(path)
    for old in set(paths[0].parent.glob("*.zip")) - set(paths):
        old.unlink()
    return 0


def shipped_keys() -> Iterator[GraphKey]:
    """Return the keys of the graphs that ship."""
    recipe = PRESETS["cpu"].recipe
    features = FrozenFeatures(recipe.backbone, "checkpoint", merge=recipe.merge)
    denoiser = create_denoiser("cpu", features.out_channels, features.grid_size(256))
    host = FeatureHost(features, denoiser)
    for walk in usual_walks(len(host.alphas_cumprod)):
        for rule in MENU:
            yield GraphKey(host.architecture.to_plain(), tuple(walk), rule)
