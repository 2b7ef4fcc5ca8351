"""A larger reference for thresholds by cross-fitting: ``python -m invad_med.commands.cross_fit DATASET_DIR``.

Trains as ``configs/train.json`` does, then once more for each of K parts of the images learnt from, without that part
(whole groups). The model is the first; every normal image, scored by the network that did not learn from it, is a
reference of its p-values and thresholds. The scores of K + 1 networks are comparable, each standardised on its own
training images, but not exactly exchangeable: docs/training.md measures the difference. A run that was cut goes on with
the same command.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from invad_med.bundle import run_config
from invad_med.files import whole_file
from invad_med.networks.checkpoints import read_checkpoint


def cross_fit(dataset_dir: Path, output_dir: Path, folds: int, overrides: Sequence[str]) -> int:
    """Train K + 1 models and write the first with the references of all to ``output_dir/<data set>.pt``.

    Args:
        dataset_dir: one data set in BMAD's layout.
        output_dir: ``whole``, ``fold-1`` to ``fold-K`` and ``features`` are made in it.
        folds: K, at least 2, at most the groups of training images.
        overrides: keys of ``train.json``, such as ``["--steps", "500"]``.

    Returns:
        0, or the status of the training that failed.
    """
    parts: dict[str, list[str]] = {"whole": []} | {f"fold-{k}": ["--fold", f"{k}/{folds}"] for k in range(1, folds + 1)}
    for name, fold in parts.items():
        given = {"dataset_dir": dataset_dir, "output_dir": output_dir / name, "ckpt_path": output_dir / f"{name}.pt"}
        status = run_config("train.json", {**given, "cache_dir": output_dir / "features"}, [*overrides, *fold])
        if status:
            return status
    whole, *others = (read_checkpoint(output_dir / f"{name}.pt") for name in parts)
    model = pool_references(whole, others)
    path = output_dir / f"{model['_extra_state']['modality']}.pt"
    with whole_file(path) as partial:
        torch.save(model, partial)
    count = model["_extra_state"]["held_out_images"]
    print(f"model written to {path}: {count} normal images support rates from {1 / (count + 1):.2g} on")
    return 0


def pool_references(whole: dict[str, Any], others: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a calibrated detector's state dict whose references are those of several, ascending.

    Args:
        whole: state dict of the detector to keep.
        others: state dicts calibrated for the same score, each on other normal images.
    """
    pooled = dict(whole)
    for name in ("calibration.reference", "calibration.map_reference"):
        pooled[name] = torch.cat([state[name] for state in (whole, *others)]).sort().values
    held_out = len(pooled["calibration.reference"])
    pooled["_extra_state"] = whole["_extra_state"] | {"held_out_images": held_out, "cross_fit_folds": len(others)}
    return pooled


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of ``python -m invad_med.commands.cross_fit``."""
    parser = argparse.ArgumentParser(
        prog="python -m invad_med.commands.cross_fit",
        description="Train a model whose thresholds rest on all normal images, by K more trainings.",
    )
    parser.add_argument("dataset_dir", type=Path, help="one data set in BMAD's layout")
    parser.add_argument("--output_dir", type=Path, default=Path("output/cross_fit"), help="default: %(default)s")
    parser.add_argument("--folds", type=int, default=5, help="K, trainings without a part each (%(default)s)")
    parser.add_argument("--train", default="", help='keys of train.json in one word: --train "--steps 500"')
    options = parser.parse_args(argv)
    if options.folds < 2:
        parser.error(f"--folds {options.folds} must be at least 2")
    return cross_fit(options.dataset_dir, options.output_dir, options.folds, options.train.split())


if __name__ == "__main__":
    raise SystemExit(main())
