"""Which words a command line gives which key, paired as Fire pairs them, unread."""

from __future__ import annotations

import re
from collections.abc import Sequence

from invad_med.options.values import OptionError

Word = str | bool


def words(arguments: Sequence[str]) -> dict[str, Word]:
    """Return the words of a command line by key, see `pair`."""
    return pair(arguments)[0]


def pair(arguments: Sequence[str]) -> tuple[dict[str, Word], list[str]]:
    """Pair keys and words: ``--key word``, ``--key=word``, ``-key word``; the last of several wins.

    Args:
        arguments: of a command line, without the program and its command.

    Returns:
        id of the key, with ``::`` between its parts -> its word; True for a key without one, False for ``--nokey``.
        Words that stand alone, which Fire gives to the parameters of MONAI's ``run`` by their position.

    Raises:
        OptionError: a lone ``-`` or ``--``: Fire leaves out what follows it.
    """
    for separator in ("-", "--"):
        if separator in arguments:
            raise OptionError(f"a lone {separator} ends the keys: what follows would not be read; write ./- for a name")
    pairs: dict[str, Word] = {}
    alone: list[str] = []
    rest = list(arguments)
    while rest:
        flag = rest.pop(0)
        if not _is_flag(flag):
            alone.append(flag)
            continue
        key, equals, word = flag.lstrip("-").partition("=")
        key = key.replace("-", "_").replace("#", "::")
        if equals:
            pairs[key] = word
        elif rest and not _is_flag(rest[0]):
            pairs[key] = rest.pop(0)
        elif key.startswith("no"):
            pairs[key[2:]] = False
        else:
            pairs[key] = True
    return pairs, alone


def _is_flag(argument: str) -> bool:
    return argument.startswith("--") or re.match("-[a-zA-Z]", argument) is not None
