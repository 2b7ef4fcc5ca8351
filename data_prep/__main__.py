"""Make and check data sets in BMAD's layout: ``python -m data_prep COMMAND --help``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from data_prep.layout import PrepError

# Command -> one line of help. Its module has add_arguments(parser) and run(arguments) -> exit status; it is imported
# only when asked for, so that a missing extra (openslide, nilearn) hinders no other command.
COMMANDS = {
    "brain": "BraTS2021: FLAIR slices, tumours as anomalies",
    "liver": "BTCV and LiTS: abdominal CT slices, liver tumours as anomalies",
    "resc": "RESC: retinal OCT, oedema as anomalies",
    "oct2017": "OCT2017: retinal OCT; CNV, DME and drusen as anomalies",
    "chest": "RSNA pneumonia challenge: chest X-rays, everything not normal as anomalies",
    "histopathology": "Camelyon16: tiles of lymph node slides, metastases as anomalies",
    "folder": "your own normal and abnormal studies, DICOM, NIfTI or images",
    "phantom": "a brain cohort with planted lesions, made offline",
    "check": "say what a folder in BMAD's layout holds and what is wrong with it",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status: 0; 2 for wrong arguments; 3 where something was left out."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="python -m data_prep", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        command = commands.add_parser(
            name, help=text, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name in argv[:1]:
            module = importlib.import_module(f"data_prep.{name}")
            command.description = module.__doc__
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    arguments = parser.parse_args(argv)
    try:
        return arguments.run(arguments)
    except (PrepError, FileNotFoundError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
