"""Make a model of a diffusion model that is trained already: nothing is trained, normal images calibrate it.

HOST is a folder of diffusers, or of MONAI's Model Zoo. Its end points of normal images give whitening, score, p-values
and thresholds. Inversion and rule are chosen on images of valid as a training chooses them, unless they are given. The
file written is a checkpoint as a training leaves it: inference.json and evaluate.json take it as --ckpt_path. A host of
your own, such as a function, is calibrated from Python: invad_med.training.calibrating.calibrate_host.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from invad_med.data.slices import ReadError
from invad_med.hosts import read_host
from invad_med.timesteps import Grid
from invad_med.training.calibrating import calibrate_host

EXAMPLES = """\
  python -m invad_med calibrate ddpm-brain BMAD/Brain --output output/brain.pt
  python -m invad_med calibrate stable-diffusion BMAD/Brain --prompt empty.safetensors --licence OpenRAIL-M --steps 3
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the host, the data set, where to write, and what the host's files do not say."""
    parser.add_argument("host", metavar="HOST", type=Path, help="folder of diffusers, or of MONAI's Model Zoo")
    parser.add_argument("dataset_dir", metavar="DATASET", type=Path, help="one data set in BMAD's layout")
    parser.add_argument("--output", metavar="FILE", type=Path, required=True, help="checkpoint to write")
    parser.add_argument("--modality", metavar="NAME", help="what the images show, where the folder does not say it")
    parser.add_argument("--cache_dir", metavar="DIR", type=Path, help="keep encodings here")
    parser.add_argument("--seed", type=int, default=0, help="of the division of the normal images (%(default)s)")
    parser.add_argument("--device", default="cpu", help="where it computes (%(default)s)")
    walk = parser.add_argument_group("inversion and score; chosen on valid if none of these is given")
    walk.add_argument("--steps", type=int, metavar="S", help="network evaluations")
    walk.add_argument("--mode", choices=("paper", "official", "truncated"), help="grid of timesteps (paper)")
    walk.add_argument("--rule", metavar="NAME", help="what the score is made of")
    host = parser.add_argument_group("what the host's own files do not say")
    host.add_argument("--prompt", metavar="FILE", type=Path, help="embedding of the prompt to condition on")
    host.add_argument("--label", type=int, metavar="N", help="class to condition on")
    host.add_argument("--network_file", metavar="FILE", type=Path, help="weights of the network, such as GLAD's")
    host.add_argument("--vae_folder", metavar="DIR", type=Path, help="another autoencoder of diffusers")
    host.add_argument("--name", help="of a model of the zoo, where its folder is called otherwise")
    host.add_argument("--size", type=int, metavar="PIXELS", help="side of the images")
    host.add_argument("--scale_factor", type=float, metavar="X", help="of the latents")
    host.add_argument("--noise", choices=("gaussian", "simplex", "other"), help="that it was trained with (gaussian)")
    host.add_argument("--licence", help="of the weights, to be stated in the checkpoint")


_OF_HOST = (
    "prompt", "label", "network_file", "vae_folder", "name", "size", "scale_factor", "noise", "licence",
)  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Read the host, calibrate it and write the checkpoint."""
    given = {name: value for name in _OF_HOST if (value := getattr(options, name)) is not None}
    grid = None
    if options.steps is not None or options.mode is not None:
        grid = Grid(3 if options.steps is None else options.steps, options.mode or "paper")
    try:
        path = calibrate_host(
            read_host(options.host, **given),
            options.dataset_dir,
            options.output,
            modality=options.modality,
            grid=grid,
            rule=options.rule,
            cache_dir=options.cache_dir,
            seed=options.seed,
            device=options.device,
        )
    except (ValueError, ReadError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"model written to {path}")
    return 0
