"""Score, train, measure and compare: commands around the bundle's configurations.

Training on one data set and measuring models are `python -m monai.bundle run` with a configuration of the bundle, as
the README shows; so is scoring images with a network of your own.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from invad_med.options import OptionError

# Command -> one line of help. Its module in invad_med.commands has EXAMPLES, add_arguments(parser) and run(options) ->
# exit status; it is imported only when asked for, so that the list of commands is there at once.
COMMANDS = {
    "score": "score images as the bundle does, started in a fraction of its time",
    "listen": "a DICOM node: score studies that arrive, send results back into them",
    "process": "score the images of one folder into another, as mercure and MONAI run containers",
    "archive": "score an archive of any size, in shards, by many workers, into one table and a worklist",
    "train-all": "train, calibrate and measure every data set under a folder, into one report",
    "curve": "what more steps and more images bring: a learning curve of one data set",
    "cross-fit": "train one model whose thresholds rest on all normal images, by K more trainings",
    "calibrate": "make a diffusion model that is trained already a model: of diffusers, of MONAI's zoo",
    "complete": "give a model trained before a limit of what it knows, and what it needs to judge studies",
    "designs": "train designs on every data set with several seeds, and say which is better",
    "ablate": "what each part of the method brings: components, evaluations, scores, grids, other designs",
    "compare": "say which of two evaluations is better, paired on the same images",
    "log-again": "log an evaluation in MLflow that could not be logged when it was made",
    "rules": "compare ways to make one score of an end point, on trained models",
    "graphs": "make the graphs that the package ships for engines anew",
    "bench": "what scoring costs on this machine, beside rivals and a former build",
    "benchmark": "what each preset costs to train and to evaluate on this machine, as a table",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status (2 for wrong arguments, 130 if it was interrupted)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    listed = "\n".join(f"  {name:<12}{text}" for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="python -m invad_med",
        description=(__doc__ or "").replace("`", "") + "\ncommands:\n" + listed,
        epilog="Arguments and examples of a command: python -m invad_med COMMAND --help",
        formatter_class=_formatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", help="one of these")
    for name in COMMANDS:
        command = commands.add_parser(name, formatter_class=_formatter, allow_abbrev=False)
        if name in argv[:1]:
            module = importlib.import_module(f"invad_med.commands.{name.replace('-', '_')}")
            command.description = (module.__doc__ or "").replace("`", "")
            command.epilog = f"examples:\n{module.EXAMPLES}"
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    options = parser.parse_args(argv)
    try:
        status: int = options.run(options)
    except (OptionError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return status


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=30)


if __name__ == "__main__":
    raise SystemExit(main())
