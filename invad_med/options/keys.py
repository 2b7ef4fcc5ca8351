"""Which keys of a configuration nothing reads, and what they were meant to be."""

from __future__ import annotations

import difflib
import inspect
import pydoc
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from invad_med.options.kinds import Kind, find_kind
from invad_med.options.values import is_syntax

# Keys of `monai.bundle run` and `run_workflow` themselves.
OF_MONAI = frozenset(
    "args_file config_file final_id init_id logging_file meta_file properties_path run_id tracking workflow_name "
    "workflow_type".split()
)
# Brought in by ``--tracking mlflow``, MONAI's own.
_OF_TRACKING = frozenset(
    ("experiment_name", "is_not_rank0", "output_dir", "run_name", "save_execute_config", "tracking_uri")
)
_REFERENCE = re.compile(r"[@%](\w+(?:(?:::|#)\w+)*)")


def unknown_keys(config: Mapping[str, Any], own: Mapping[str, Any], used: Collection[str] = ()) -> Iterator[str]:
    """Yield ids that the bundle's file does not have and nothing refers to; those that begin with _ are notes.

    Arguments of a component are looked up in what it constructs.

    Args:
        config: what is run: the bundle's file, other files, what was given.
        own: the bundle's file.
        used: ids that are run by name, or referred to by what was overridden.
    """
    known = references(config) | set(used) | (_OF_TRACKING if "is_not_rank0" in config else set())
    yield from _unknown(config, own, known, "")


def _unknown(config: Mapping[str, Any], own: Mapping[str, Any], known: Collection[str], inside: str) -> Iterator[str]:
    for key, value in config.items():
        identity = inside + key
        theirs = own.get(key, {})
        if key.startswith("_"):
            continue
        if key not in own and not any(f"{k}::".startswith(f"{identity}::") for k in known):
            yield identity
        elif isinstance(value, Mapping) and "_target_" in value:
            yield from (f"{identity}::{argument}" for argument in _unknown_arguments(value, theirs))
        elif isinstance(value, Mapping) and isinstance(theirs, Mapping) and identity not in known:
            yield from _unknown(value, theirs, known, f"{identity}::")  # read piece by piece


def _unknown_arguments(component: Mapping[str, Any], own: Any) -> list[str]:
    same = isinstance(own, Mapping) and component["_target_"] == own.get("_target_")
    added = [key for key in component if not key.startswith("_") and not (same and key in own)]
    allowed = arguments_of(component["_target_"]) if added else None
    return [] if allowed is None else [key for key in added if key not in allowed]


def arguments_of(target: Any) -> list[str] | None:
    """Return the names of a constructor's arguments; None if it takes any, or is not to be found by its dotted name."""
    constructor = pydoc.locate(target) if isinstance(target, str) and "." in target else target
    try:
        parameters = inspect.signature(constructor).parameters.values()  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return None if any(p.kind is p.VAR_KEYWORD for p in parameters) else [p.name for p in parameters]


def references(config: Any) -> set[str]:
    """Return every id that a configuration refers to: of ``@train#dataset``, ``train::dataset``."""
    if isinstance(config, Mapping):
        return set().union(*(references(value) for value in config.values()))
    if isinstance(config, list | tuple):
        return set().union(*(references(value) for value in config))
    if not isinstance(config, str) or not is_syntax(config):
        return set()
    return {match.replace("#", "::") for match in _REFERENCE.findall(config)}


def reaches(key: str, config: Mapping[str, Any]) -> bool:
    """Return whether there is a part that holds what an id such as ``train::trainer::device`` names."""
    part: Any = config
    *inside, _ = key.replace("#", "::").split("::")
    for name in inside:
        if isinstance(part, list) and name.isdecimal() and int(name) < len(part):
            part = part[int(name)]
        elif isinstance(part, Mapping) and name in part:
            part = part[name]
        else:
            return False
    return isinstance(part, Mapping | list)


def nearest(key: str, config: Mapping[str, Any]) -> str | None:
    """Return the key, or argument of a component, that a misspelt one was most likely meant to be, or None."""
    candidates = {name: name for name in option_keys(config)}
    for name, part in config.items():
        if isinstance(part, Mapping) and "_target_" in part:
            arguments = {*part, *(arguments_of(part["_target_"]) or ())}
            candidates |= {f"{name}#{a}": a for a in arguments if not a.startswith("_")}
    whole = key.replace("::", "#").lower()
    last = whole.rpartition("#")[2]
    if "#" in whole:  # an argument of the same component first
        component = whole.rpartition("#")[0]
        close = difflib.get_close_matches(last, [a for n, a in candidates.items() if n == f"{component}#{a}"], 1)
        if close:
            return f"{component}#{close[0]}"
    whole_keys, arguments_too = option_keys(config), list(candidates)
    for names in (arguments_too,) if "#" in whole else (whole_keys, arguments_too):
        close = difflib.get_close_matches(whole, names, 1)
        if close:
            return close[0]
    return next((name for name, argument in candidates.items() if argument == last), None)


def option_keys(config: Mapping[str, Any]) -> list[str]:
    """Return the keys that a user gives, parts of the configuration left out."""
    return sorted(key for key in config if find_kind(key) is not Kind.PART)
