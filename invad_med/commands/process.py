"""Score the images of one folder into another, as mercure and MONAI Application Packages run a container.

DICOM in, DICOM out: overlays, parametric map and report of every series, named so that mercure sends them on, and
result.json, which says what came of it. Nothing else is written there. Settings are those of this step in task.json
of the first folder, as mercure writes it, under the names of the options below; what is given here goes first.

Without IN or OUT the folders are what the environment says: MERCURE_IN_DIR and MERCURE_OUT_DIR, else MONAI_INPUTPATH
and MONAI_OUTPUTPATH, else HOLOSCAN_INPUT_PATH and HOLOSCAN_OUTPUT_PATH.

Ends with 0 if all results are in OUT; with 2 if nothing can be scored, or not so; with 3 if results could not be
written. OUT then gets nothing but result.json, which says why.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import sys
import warnings
from pathlib import Path
from types import FrameType

from invad_med.commands.score import CONFIG, add_keys, keys_given
from invad_med.inference.run import RunOptions
from invad_med.options import OptionError, plain_from_value, plain_keys, refuse_secrets, settings_of

EXAMPLES = """\
  python -m invad_med process IN OUT
  python -m invad_med process IN OUT --modality brain --dicom_out '[report]'
  MERCURE_IN_DIR=IN MERCURE_OUT_DIR=OUT python -m invad_med process
"""

_KEYS = (
    "ckpt_path", "modality", "false_positive_rate", "gate", "dicom_out", "anonymize", "batch_size", "device", "engine",
)  # fmt: skip
_IN = ("MERCURE_IN_DIR", "MONAI_INPUTPATH", "HOLOSCAN_INPUT_PATH")
_OUT = ("MERCURE_OUT_DIR", "MONAI_OUTPUTPATH", "HOLOSCAN_OUTPUT_PATH")
_TERMINATED = 128 + signal.SIGTERM

logger = logging.getLogger("invad_med.process")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take the folders, and keys of the configuration."""
    parser.add_argument("images", metavar="IN", nargs="?", help="folder of images, searched below, and of task.json")
    parser.add_argument("results", metavar="OUT", nargs="?", help="folder of results, without others' DICOM files")
    keys = parser.add_argument_group("scoring, as python -m invad_med score has it; also settings of task.json")
    add_keys(keys, _KEYS)


def run(options: argparse.Namespace) -> int:
    """Score and leave the results; return 0, 2 if nothing can be scored, 3 if results could not be written."""
    from invad_med.node.exchange import begin, write_failure
    from invad_med.node.scoring import NotWritten

    logging.basicConfig(
        level=os.environ.get("LOGLEVEL", "INFO"), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("invad_med.inference.results").setLevel(logging.ERROR)  # names files, as a patient may be
    warnings.simplefilter("ignore")  # libraries quote values, which can be the patient's name
    images, results = _folder(options.images, "IN", _IN), _folder(options.results, "OUT", _OUT)
    one, other = Path(os.path.realpath(images)), Path(os.path.realpath(results))
    if one == other or one in other.parents or other in one.parents:
        raise OptionError("IN and OUT are the same folder, or one lies in the other: give two apart")
    before = signal.signal(signal.SIGTERM, _end)
    status, reason = 2, ""
    try:
        begin(results)
        _exchange(images, results, options)
        return 0
    except (NotWritten, OSError) as error:
        missing = isinstance(error, FileNotFoundError) and not error.errno
        status = 2 if missing else 3
        reason = str(error) if missing or isinstance(error, NotWritten) else error.strerror or "input or output error"
    except (ValueError, ImportError) as error:
        reason = str(error)
    except Exception as error:  # libraries quote values, which can be the patient's name
        logger.debug("processing", exc_info=True)
        reason = f"processing failed ({type(error).__name__})"
    finally:
        signal.signal(signal.SIGTERM, before)
    for folder, words in ((images, "the folder of images"), (results, "the folder of results")):
        reason = re.sub(rf"(?<!\S){re.escape(str(folder))}(?!\S)", words, reason)
    print(f"error: {reason}", file=sys.stderr)
    try:
        write_failure(results, reason)
    except OSError as error:
        print(f"error: result.json not written ({error.strerror})", file=sys.stderr)
        return 3
    return status


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(_TERMINATED)


def _folder(given: str | None, name: str, variables: tuple[str, ...]) -> Path:
    found = next(filter(None, [given, *map(os.environ.get, variables)]), None)
    if found is None:
        raise OptionError(f"{name} is missing: give IN and OUT, or set {' or '.join(variables)}")
    return Path(os.path.abspath(found))


def _exchange(images: Path, results: Path, options: argparse.Namespace) -> None:
    from invad_med.node.exchange import exchange, read_settings

    if not images.is_dir():
        raise OptionError(f"{images} is not there, or is no folder")
    own = read_settings(images, _KEYS)
    given = {key: plain_from_value(CONFIG, key, value) for key, value in own.items()} | keys_given(options)
    refuse_secrets(given)
    settings = settings_of(CONFIG, {**given, "deterministic_uids": True})
    result = exchange(images, results, RunOptions(**{**plain_keys(CONFIG), **given}), settings)
    for reason in result.reasons:
        logger.warning("%s", reason)
    print(result.text)
