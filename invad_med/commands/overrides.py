"""Keys of a configuration given in one word, such as ``--train "--steps 500 --cache_dir 'my folder'"``."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable

from invad_med.options import OptionError, read_overrides


def overrides(config: str, *taken: str) -> Callable[[str], list[str]]:
    """Return a type for `argparse`: one word -> the words of a command line of ``config``, checked.

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
