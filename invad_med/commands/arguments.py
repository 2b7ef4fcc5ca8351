"""Arguments that several commands take."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path

from invad_med.options import OptionError, read_overrides


def add_root(parser: argparse.ArgumentParser) -> None:
    """Take a folder of data sets."""
    parser.add_argument("dataset_dir", metavar="ROOT", type=Path, help="folder of data sets in any of BMAD's layouts")


def add_output_dir(parser: argparse.ArgumentParser, default: str, holds: str) -> None:
    """Take where results go.

    Args:
        default: folder, from where the command is run.
        holds: what will lie there, for the reader.
    """
    parser.add_argument(
        "--output_dir", metavar="DIR", type=Path, default=Path(default), help=f"for {holds} (%(default)s)"
    )


def count(word: str) -> int:
    """Return a number of at least 1, as a type for `argparse`."""
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is no number of at least 1")
    return int(word)


def keys_of(config: str, *taken: str) -> Callable[[str], list[str]]:
    """Return a type for `argparse`: one word -> the words of a command line of ``config``, checked.

    Such a word is ``--train "--steps 500 --cache_dir 'my folder'"``.

    Args:
        config: name of the bundle's file, such as ``train.json``.
        taken: keys that the command sets itself.
    """

    def split(text: str) -> list[str]:
        try:
            arguments = shlex.split(text)
            given = read_overrides(arguments, config)
        except (OptionError, ValueError) as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        for key in taken:
            if key in given:
                raise argparse.ArgumentTypeError(f"--{key} is set by this command")
        return arguments

    return split
