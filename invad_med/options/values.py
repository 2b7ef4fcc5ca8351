"""What a word of the command line, or a value from anywhere else, means to a key of some kind."""

from __future__ import annotations

import os
import tokenize
from collections.abc import Iterable, Mapping
from io import StringIO
from numbers import Real
from pathlib import PurePath
from typing import Any

from fire.parser import DefaultParseValue

from invad_med.options.kinds import Kind, find_kind

_SWITCHES = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(("false", "no", "off", "0"), False)
_NOTHING = ("none", "null")


class OptionError(ValueError):
    """A key or value that cannot be meant as it stands; the message names it and what to write."""


def switch(value: Any, key: str) -> bool:
    """Return a switch: a bool, or true, yes, on, 1, false, no, off, 0 in any case.

    Raises:
        OptionError: anything else.
    """
    word = str(value).lower()
    if not isinstance(value, bool | int | str) or word not in _SWITCHES:
        raise OptionError(f"--{key} is {value!r}: a switch is true or false (also yes, no, on, off, 1, 0)")
    return _SWITCHES[word]


def is_syntax(word: object) -> bool:
    """Return whether MONAI reads a string as an expression ``$``, a reference ``@`` or a macro ``%``."""
    return isinstance(word, str) and word.startswith(("$", "@", "%"))


def is_for_monai(key: str, word: str | bool) -> bool:
    """Return whether a word of the command line is MONAI's syntax, not a folder or file that is there."""
    return is_syntax(word) and not (find_kind(key) is Kind.PATH and os.path.exists(str(word)))


def from_word(key: str, word: str | bool, nothing: bool = False) -> Any:
    """Return what a word of the command line means.

    Args:
        key: id of the key.
        word: as typed; True for a key without a word, False for ``--nokey``.
        nothing: whether ``null`` and ``none`` mean None.

    Raises:
        OptionError: it means nothing sensible.
    """
    kind = find_kind(key)
    shown = key.replace("::", "#")
    if isinstance(word, bool):
        if kind in (Kind.SWITCH, Kind.PART):
            return word
        hint = f": a word that begins with - is written --{shown}=-WORD" if word else ""
        raise OptionError(f"--{shown} needs {kind}{hint}")
    if is_for_monai(key, word):
        return word
    if nothing and word.lower() in _NOTHING:
        return None
    if kind is Kind.PATH:
        return _stated(shown, _path(shown, word))
    if kind is Kind.NAME:
        plain = unquoted(word)
        # torch counts GPUs: --device 1
        return int(plain) if key == "device" and plain.isdecimal() else _stated(shown, plain)
    if kind is Kind.SWITCH:
        return switch(unquoted(word), shown)
    if _has_comment(word):
        raise OptionError(f"--{shown} {word}: what follows # would be dropped; write it in quotes inside quotes")
    value = DefaultParseValue(word)
    return _number(shown, value) if kind is Kind.NUMBER else value


def from_value(key: str, value: Any, nothing: bool = False) -> Any:
    """Return what a value means that did not come from the command line but from a file or a Python call.

    Raises:
        OptionError: it is of another type than the key takes, or a name that MONAI has changed.
    """
    kind = find_kind(key)
    if is_syntax(value) or kind in (Kind.PART, Kind.WORDS):
        return value
    if nothing and (value is None or (isinstance(value, str) and value.lower() in _NOTHING)):
        return None
    if kind is Kind.SWITCH:
        return switch(value, key)
    if kind is Kind.NUMBER:
        return _number(key, value)
    if key == "device" and not isinstance(value, str):
        return value
    if not isinstance(value, str | PurePath):
        raise OptionError(
            f'{key} is {value!r}, not {kind}: write it in quotes, "{value}", in a file or a call; '
            f"on the command line --{key} {value} is enough"
        )
    if "::" in str(value) and "://" not in str(value):
        raise OptionError(
            f"{key} is {value!r}: MONAI writes # as :: in values of files and calls. Give it on the command line, or "
            f'write "{as_expression(str(value).replace("::", "#"))}" for #, "{as_expression(str(value))}" for ::'
        )
    return _stated(key, value)


def unquoted(word: str) -> str:
    """Return what stands between the quotes of a word in quotes, and any other word as it is."""
    inner = word[1:-1]
    return inner if len(word) > 1 and word[0] == word[-1] and word[0] in "'\"" and word[0] not in inner else word


def as_expression(value: str) -> str:
    """Return an expression for MONAI's configuration whose value is a string, whatever characters it has."""
    text = repr(value)
    for character in "#@%:":
        text = text.replace(character, f"\\x{ord(character):02x}")
    return f"${text}"


def literals(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values for a configuration whose paths and names arrive as they are, ``study#1`` for one."""
    return {
        key: as_expression(value)
        if isinstance(value, str)
        and not is_syntax(value)
        and find_kind(key.replace("#", "::")) in (Kind.PATH, Kind.NAME)
        else value
        for key, value in values.items()
    }


def _path(key: str, word: str) -> str:
    inner = unquoted(word)
    if inner == word or not os.path.exists(word):
        return inner
    if os.path.exists(inner):
        raise OptionError(f"--{key} {word}: {word} and {inner} both exist; write ./{word} or ./{inner}")
    return word


def _stated(key: str, value: Any) -> Any:
    if not str(value).strip():
        raise OptionError(f"--{key} is empty")
    return value


def _number(key: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise OptionError(f"--{key} is {value!r}, which is no number")
    return value


def _has_comment(word: str) -> bool:
    if "#" not in word:
        return False
    try:
        tokens: Iterable[tokenize.TokenInfo] = list(tokenize.generate_tokens(StringIO(word).readline))
    except (tokenize.TokenError, SyntaxError):
        return False
    return any(token.type == tokenize.COMMENT for token in tokens)
