"""Learning curve of a data set: what more steps and more images bring.

Trains as train.json does, once on all training images and once on a tenth of them, and measures image AUROC on the test
split along the way, each time by the inversion and rule that valid chooses for the network of that moment. The test
split chooses nothing here.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from torch import nn

from invad_med.bundle import root
from invad_med.commands.arguments import keys_of
from invad_med.data.bmad import datalist
from invad_med.features.cached import cached_features
from invad_med.files import write_atomically
from invad_med.options import check_parser, literals, read_overrides
from invad_med.training.candidates import Candidates
from invad_med.training.features import CohortFeatures
from invad_med.training.selection import CalibratedAuroc

EXAMPLES = """\
  python -m invad_med curve BMAD/Brain --steps 500
  python -m invad_med curve scans --modality chest --fraction 0.5 --output curve.json --train "--preset small"
"""


def learning_curve(
    dataset_dir: str | Path,
    points: int = 5,
    cache_dir: str | Path | None = None,
    ckpt_path: str | Path | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Train, and return image AUROC on the test split at step 0 and after each of ``points`` equal parts.

    Args:
        dataset_dir: one data set in BMAD's layout, its test split with images of both classes.
        points: measurements after the first.
        cache_dir: folder for the features, kept between runs.
        ckpt_path: also write the model here, as ``train.json`` would.
        overrides: keys of ``train.json``, such as ``steps=500`` or ``train_fraction=0.1``.

    Returns:
        ``dataset``, ``train_images``, ``steps``, ``seconds`` and ``core_seconds`` (of the wall and of the process, for
        training with its validations; features and measurements not counted), ``curve`` (step and ``test_auroc``
        each), ``selected`` (step that validation chose, and its ``test_auroc``), ``validation`` (its figures).

    Raises:
        ValueError: the test split has images of one class only.
        OptionError: an override that train.json does not take.
    """
    judged = datalist(dataset_dir, "test")
    if len({item["label"] for item in judged}) < 2:
        raise ValueError(f"{dataset_dir}: the test split has images of one class only, so there is no AUROC")
    with tempfile.TemporaryDirectory() as folder:
        parser = ConfigParser()
        parser.read_config(Path(root()) / "configs" / "train.json")
        cache_dir = str(cache_dir or Path(folder) / "features")
        given = {"dataset_dir": str(dataset_dir), "output_dir": folder, "cache_dir": cache_dir, **overrides}
        parser.update(literals(given))
        check_parser(parser, "train.json")
        parser.get_parsed_content("initialize")
        trainer, selection = parser.get_parsed_content("train#trainer"), parser.get_parsed_content("selection")
        cohort, detector = parser.get_parsed_content("cohort"), parser.get_parsed_content("network")
        known: CohortFeatures = parser.get_parsed_content("cohort_features")
        normal, abnormal = (
            cached_features(
                detector.host,
                [Path(item["image"]) for item in judged if item["label"] == label],
                cohort.modality,
                cache_dir,
            )
            for label in (0, 1)
        )
        candidates: Candidates = parser.get_parsed_content("candidates")

        def auroc(network: nn.Module) -> float:
            network.eval()
            choice = candidates.choose(detector.host, known, network)  # on valid, as the model would be
            parts = (known.train, normal, abnormal, known.calibration)
            return CalibratedAuroc(detector.host, choice.timesteps, *parts, rule=choice.rule)(network)

        total = parser.get_parsed_content("total_iterations")
        curve: list[dict[str, float]] = []
        measuring = np.zeros(2)

        def measure(engine: Engine) -> None:
            start = clocks()
            curve.append({"step": engine.state.iteration, "test_auroc": auroc(selection.network)})
            measuring[:] += clocks() - start

        due = {round(total * part / points) for part in range(1, points + 1)}
        trainer.add_event_handler(Events.STARTED, measure)
        trainer.add_event_handler(
            Events.ITERATION_COMPLETED(event_filter=lambda engine, step: step in due),
            measure,
        )
        start = clocks()
        trainer.run()
        seconds, core_seconds = (clocks() - start - measuring).tolist()
        selection.network.load_state_dict(selection.load_best())
        chosen = {"step": selection.best["step"], "test_auroc": auroc(selection.network)}
        if ckpt_path:
            parser.update(literals({"ckpt_path": str(ckpt_path)}))
            finish = parser.get_parsed_content("finish")
            finish(weights=selection.load_best(), validation=selection.best)
    return {
        "dataset": cohort.modality.name,
        "train_images": len(cohort.train),
        "steps": total,
        "seconds": round(seconds, 1),
        "core_seconds": round(core_seconds, 1),
        "curve": curve,
        "selected": chosen,
        "validation": selection.history,
    }


def clocks() -> np.ndarray:
    """Return the seconds of the wall clock and of this process on all cores."""
    return np.array([time.perf_counter(), time.process_time()])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the data set, the length and share of the trainings, and what to keep."""
    parser.add_argument("dataset_dir", metavar="DATASET", type=Path, help="one data set in BMAD's layout")
    parser.add_argument("--modality", help="its kind, if the folder's name does not say it")
    parser.add_argument("--steps", type=int, default=500, help="optimiser steps of each training (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of both trainings (%(default)s)")
    parser.add_argument("--fraction", type=float, default=0.1, help="of the data in the second training (%(default)s)")
    parser.add_argument("--cache_dir", metavar="DIR", type=Path, help="keep features here")
    parser.add_argument("--ckpt_path", metavar="FILE", type=Path, help="keep the model of all images here")
    parser.add_argument("--output", metavar="FILE", type=Path, help="also write the result to this JSON file")
    taken = ("dataset_dir", "output_dir", "cache_dir", "ckpt_path", "modality", "steps", "seed", "train_fraction")
    parser.add_argument(
        "--train",
        type=keys_of("train.json", *taken),
        default="",
        metavar='"KEYS"',
        help='more keys of train.json in one word: --train "--preset small"',
    )


def run(options: argparse.Namespace) -> int:
    """Train on all images and on a part of them, and print both curves."""
    logging.basicConfig(level=logging.WARNING)
    overrides = read_overrides(options.train, "train.json")
    overrides |= {"modality": options.modality, "steps": options.steps, "seed": options.seed}
    results = [
        learning_curve(options.dataset_dir, 5, options.cache_dir, path, train_fraction=fraction, **overrides)
        for fraction, path in ((1.0, options.ckpt_path), (options.fraction, None))
    ]
    threads = torch.get_num_threads()
    report = {"threads": threads, "all": results[0], f"{options.fraction:g} of the data": results[1]}
    if options.output:
        write_atomically(options.output, json.dumps(report, indent=1).encode())
    print(table(results))
    return 0


def table(results: Sequence[dict[str, Any]]) -> str:
    """Return learning curves side by side as a Markdown table."""
    heads = [f"{r['train_images']} images" for r in results]
    lines = [f"| {results[0]['dataset']}, step | " + " | ".join(heads) + " |", "|" + "---|" * (len(heads) + 1)]
    for row in zip(*(r["curve"] for r in results), strict=True):
        step = "0 (untrained)" if row[0]["step"] == 0 else str(row[0]["step"])
        lines.append(f"| {step} | " + " | ".join(f"{point['test_auroc']:.3f}" for point in row) + " |")
    chosen = (f"{r['selected']['test_auroc']:.3f} (step {r['selected']['step']})" for r in results)
    lines.append("| chosen by validation | " + " | ".join(chosen) + " |")
    lines.append("| seconds of training | " + " | ".join(f"{r['seconds']:.0f}" for r in results) + " |")
    return "\n".join(lines)
