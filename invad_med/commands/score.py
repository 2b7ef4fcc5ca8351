"""Score images: what the bundle's inference.json does, the same results, without MONAI and torch, which start slowly.

Takes the plain keys of that configuration. A network of your own, and keys of its parts, are for the bundle's command.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

from invad_med.inference.run import RunOptions, score
from invad_med.options import OptionError, from_word, plain_keys, refuse_secrets, settings_of

CONFIG = "inference.json"

EXAMPLES = """\
  python -m invad_med score
  python -m invad_med score DIR --output_dir results
  python -m invad_med score DIR --modality brain --dicom_out '[report]' --false_positive_rate 0.01
"""

_HELP = {
    "dataset_dir": "folder, searched below, one file, or the DICOMweb address of a study",
    "output_dir": "where results go; a folder of another input's is refused",
    "overwrite": "remove the results that lie there and score everything",
    "ckpt_path": "a checkpoint of your own",
    "modality": "what images show that do not say so: brain, chest, histopathology, ...",
    "false_positive_rate": "share of normal images, and of normal patients, that may exceed the threshold",
    "gate": "withhold the verdict of images unlike those that their model was trained on",
    "study_by": "folder: the images of a folder are one study",
    "dicom_out": "DICOM objects to write of DICOM input",
    "dicom_destination": "DICOMweb server that also gets those objects",
    "anonymize": "no identity in those objects and the page",
    "report": "write report.html",
    "deterministic_uids": "the same UIDs in every run",
    "batch_size": "images that the networks take at once",
    "device": "cpu, or cuda:0",
    "engine": "onnxruntime, openvino, eager; the fastest that is there and gives the same, where it is not given",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the folder and the plain keys of the configuration."""
    parser.add_argument("folder", metavar="DIR", nargs="?", help="--dataset_dir; the bundle's sample if not given")
    add_keys(parser, _HELP)


def add_keys(parser: argparse.ArgumentParser, keys: Iterable[str]) -> None:
    """Take some of the plain keys of the configuration; what is not given is not in the namespace."""
    defaults = plain_keys(CONFIG)
    for key in keys:
        text, shown = _HELP[key], defaults[key]
        parser.add_argument(
            f"--{key}",
            metavar="WORD",
            nargs="?",
            const=True,
            type=_reader(key),
            default=argparse.SUPPRESS,
            help=text if shown is None else f"{text} ({str(shown).lower() if isinstance(shown, bool) else shown})",
        )


def _reader(key: str) -> Callable[[str], Any]:
    def read(word: str) -> Any:
        try:
            return from_word(key, word, plain_keys(CONFIG)[key] is None)
        except OptionError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def given_keys(options: argparse.Namespace) -> dict[str, Any]:
    """Return the keys of the configuration that were given, a key alone as the switch that it is."""
    given = {key: value for key, value in vars(options).items() if key in _HELP}
    return {key: from_word(key, True) if value is True else value for key, value in given.items()}


def run(options: argparse.Namespace) -> int:
    """Score and write; return 0, 3 if anything could not be read, written or stored, 2 if nothing can be scored."""
    given = given_keys(options)
    if options.folder is not None:
        if "dataset_dir" in given:
            raise OptionError("DIR and --dataset_dir are one thing: give one of them")
        given["dataset_dir"] = from_word("dataset_dir", options.folder)
    refuse_secrets(given)
    logging.basicConfig(
        level=os.environ.get("LOGLEVEL", "INFO"), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        return score(RunOptions(**{**plain_keys(CONFIG), **given}), settings_of(CONFIG, given))
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
