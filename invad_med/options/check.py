"""All options of the run at hand, checked and set right before anything is read.

MONAI gives an expression in a configuration neither the configuration nor the command line, and has no other place of
ours to be asked first. So `check_options` looks for them where they are: on the stack of the call that evaluates it.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import weakref
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from invad_med.bundle import root
from invad_med.options.errors import tell_errors
from invad_med.options.keys import OF_MONAI, nearest, option_keys, reaches, references, unknown_keys
from invad_med.options.kinds import KINDS, Kind, find_kind, may_be_nothing
from invad_med.options.secrets import refuse_secrets
from invad_med.options.values import OptionError, as_expression, from_value, from_word, is_for_monai, is_syntax
from invad_med.options.words import Word, pair

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

WRONG = 2  # exit status of a command line that cannot be meant
_PLACES = frozenset(
    (
        "batch_size",
        "bundle_root",
        "ckpt_path",
        "dataloader",
        "dataset_dir",
        "device",
        "models_dir",
        "output_dir",
        "overwrite",
        "report",
        "save_execute_config",  # MONAI's own, with the time of the run
        "study_by",
    )
)
_CHECKED: weakref.WeakSet[ConfigParser] = weakref.WeakSet()


def check_options(config: str, printed: bool = False) -> None:
    """Check the options of the run that evaluates this expression; paths and names become what was typed.

    Args:
        config: name of the bundle's file that is run, such as ``train.json``.
        printed: whether MONAI may have shown them by now, as it does after the steps of ``initialize``.

    Raises:
        SystemExit: status 2, after a sentence on standard error, if a command line cannot be meant.
        OptionError: a call from Python cannot.
    """
    from monai.bundle import ConfigParser

    run = _running()
    if run is None:
        return
    if run.arguments is not None:
        tell_errors()
    try:
        given, alone = pair(run.arguments or ())
        for values in ({"": alone}, given, run.parser.get()):
            refuse_secrets(values, printed)
        used = references([ConfigParser.load_config_file(file) for file in run.files])
        check_parser(run.parser, config, given, run.steps, used)
    except OptionError as error:
        if run.arguments is None:
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(WRONG) from None


def checked(config: str, value: Any) -> Any:
    """Return ``dataset_dir`` once all options are checked, should a run have begun with other steps than the bundle's.

    Args:
        config: as in `check_options`.
        value: what ``@dataset_dir`` is.
    """
    run = _running()
    if run is None:
        return value
    if run.parser not in _CHECKED:
        check_options(config, printed=True)
    return run.parser.ref_resolver.resolved_content.get("dataset_dir", value)


def settings() -> str:
    """Return all that the run which evaluates this expression was told, as text to compare; empty outside of a run.

    Left out are where it reads, writes and computes, how much at once and by how many processes, what a study is and
    whether there is a page, which are made in the end, and checkpoints: their names say nothing of their content.
    """
    run = _running()
    content: dict[str, Any] = run.parser.get() if run else {}
    meant = run.parser.ref_resolver.resolved_content if run else {}
    plain = {key: meant[key] for key in content if key in meant and find_kind(key) is not Kind.PART}
    return _kept(content | plain)


def settings_of(config: str, given: Mapping[str, Any]) -> str:
    """Return the `settings` of a run that is not MONAI's.

    Args:
        config: name of the bundle's file.
        given: what its plain keys are instead of what it says.
    """
    return _kept(_own(config) | dict(given))


def plain_keys(config: str) -> dict[str, Any]:
    """Return the keys of the bundle's file that hold a value, with it; None where an expression makes it."""
    own = {key: value for key, value in _own(config).items() if find_kind(key) is not Kind.PART}
    return {key: None if is_syntax(value) else value for key, value in own.items() if key != "bundle_root"}


def _kept(content: Mapping[str, Any]) -> str:
    kept = {key: value for key, value in content.items() if not key.startswith("_") and key not in _PLACES}
    return json.dumps(kept, sort_keys=True, default=repr)


def part_if_given(config: str, identity: str, *keys: str) -> Any:
    """Return a component of the run that evaluates this expression, if it is another than in the bundle's file.

    A reference in an expression builds what it names in any case.

    Args:
        config: name of that file.
        identity: of the component.
        keys: of what it is made of.

    Returns:
        It, or None if nothing there differs, and outside of a run; nothing is built then.
    """
    run = _running()
    content: Mapping[str, Any] = run.parser.get() if run else {}
    own = _own(config, content.get("bundle_root"))
    if run is None or all(content.get(key) == own.get(key) for key in (identity, *keys)):
        return None
    return run.parser.get_parsed_content(identity)


def check_parser(
    parser: ConfigParser,
    config: str,
    given: Mapping[str, Word] | None = None,
    steps: Sequence[str] = (),
    used: Collection[str] = (),
) -> None:
    """Check what a parser holds against the bundle's file, and put in what the words of a command line mean.

    Args:
        parser: with the file's content and what overrides it; changed in place.
        config: name of the bundle's file.
        given: words of the command line by key, as `invad_med.options.words.words` pairs them.
        steps: ids that are run by name, the first of them must exist.
        used: ids that the files refer to, whatever was overridden.

    Raises:
        OptionError: a key that does not exist, or a value that its key does not take.
    """
    content: dict[str, Any] = parser.get()
    own = _own(config, (given or {}).get("bundle_root") or content.get("bundle_root"))
    given = {key: word for key, word in (given or {}).items() if key not in OF_MONAI}

    def has_place(key: str) -> bool:
        argument = "::" in key and reaches(key, content) and not key.rpartition("::")[2].isdecimal()
        return key in parser or argument

    for key, word in given.items():  # MONAI drops a key that is given None
        if has_place(key) and find_kind(key) is Kind.PART and from_word(key, word) is None:
            _replace(parser, key, None)
    absent = [key for key in given if not has_place(key)]
    unknown = list(
        dict.fromkeys([*absent, *unknown_keys(content, own, {*steps, *used, *references(list(given.values()))})])
    )
    if unknown:
        raise OptionError(" ".join(_unknown(key, config, own) for key in unknown))
    if steps and steps[0] not in parser:
        raise OptionError(
            f"{steps[0]!r} stands alone and is no step of {config}: a word with spaces, or several words, go in quotes"
        )
    for key in KINDS:
        if key in content and key not in given:
            value = content[key]
            changed = value is not None if key not in own else value != own[key] or type(value) is not type(own[key])
            if changed and not is_syntax(value):
                _replace(parser, key, from_value(key, value, may_be_nothing(key, own)))
    for key, word in given.items():
        value = from_word(key, word, may_be_nothing(key, own))
        if find_kind(key) is not Kind.PART and not is_for_monai(key, word):
            _replace(parser, key, value)
    _CHECKED.add(parser)


def read_overrides(arguments: Sequence[str], config: str) -> dict[str, Any]:
    """Return what words mean to a configuration that is to be run, by key.

    Args:
        arguments: keys and words, as of its command line.
        config: name of the bundle's file.

    Raises:
        OptionError: a key that it does not have, a word that its key does not take, or one that stands alone.
    """
    given, alone = pair(arguments)
    refuse_secrets({"": alone, **given})
    own = _own(config)
    if alone:
        raise OptionError(f"{alone[0]!r} stands alone: keys begin with --, and words with spaces go in quotes")
    for key in given:
        if not reaches(key, own) or ("::" not in key and key not in own):
            raise OptionError(_unknown(key, config, own))
    return {key: from_word(key, word, may_be_nothing(key, own)) for key, word in given.items()}


def plain_from_word(config: str, key: str, word: str | bool) -> Any:
    """Return what a word means to a key where no MONAI reads it.

    Raises:
        OptionError: it means nothing sensible, or MONAI alone would know what.
    """
    if is_for_monai(key, word):
        begins = str(word)[0]
        raise OptionError(f"--{key} begins with {begins}: expressions are for the bundle's command, here give a value")
    return from_word(key, word, may_be_nothing(key, _own(config)))


def plain_from_value(config: str, key: str, value: Any) -> Any:
    """Return what a value of a file means to a key where no MONAI reads it; a string is what a word would be.

    Raises:
        OptionError: it means nothing sensible, or MONAI alone would know what.
    """
    if isinstance(value, str):
        return plain_from_word(config, key, value)
    return from_value(key, value, may_be_nothing(key, _own(config)))


def _own(config: str, bundle_root: Any = None) -> dict[str, Any]:
    try:
        folder = root()
    except FileNotFoundError:
        if not isinstance(bundle_root, str) or is_syntax(bundle_root):
            raise
        folder = bundle_root
    own: dict[str, Any] = json.loads((Path(folder) / "configs" / config).read_text(encoding="utf-8"))
    return own


def _unknown(key: str, config: str, own: Mapping[str, Any]) -> str:
    meant = nearest(key, own)
    hint = f"did you mean --{meant}?" if meant else f"It has --{', --'.join(option_keys(own))}."
    return f"{config} has no key {key.replace('::', '#')}: {hint}"


def _replace(parser: ConfigParser, identity: str, value: Any) -> None:
    """Put a value where a parser has read it already, without forgetting what it has built.

    A string becomes an expression: MONAI writes # as :: in any other.
    """
    from monai.bundle import ConfigExpression, ConfigItem

    before = parser.get(identity)
    if identity in parser and value == before and type(value) is type(before) and not is_syntax(value):
        return
    content = as_expression(value) if isinstance(value, str) else value
    inside, _, last = identity.rpartition("::")
    place = parser[inside]
    place[int(last) if isinstance(place, list) else last] = content
    resolver = parser.ref_resolver
    if isinstance(content, str):
        resolver.items[identity] = ConfigExpression(content, identity, parser.globals)
    else:
        resolver.items[identity] = ConfigItem(content, identity)
    resolver.resolved_content[identity] = value


@dataclass
class _Run:
    """A run as the stack shows it.

    Args:
        parser: evaluates the caller's expression.
        steps: ids of run, initialisation and end.
        files: of the configuration.
        arguments: of the command line, if that is what runs it.
    """

    parser: ConfigParser
    steps: tuple[str, ...] = ()
    files: tuple[str | os.PathLike[str], ...] = ()
    arguments: list[str] | None = None


def _running() -> _Run | None:
    from monai.bundle import ConfigParser, ConfigWorkflow

    run, by_fire, callee = None, False, ""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        me, module, name = frame.f_locals.get("self"), str(frame.f_globals.get("__name__")), frame.f_code.co_name
        if isinstance(me, ConfigParser):
            run = run or _Run(me)
        elif run is None:
            pass
        elif isinstance(me, ConfigWorkflow):
            run.steps = (me.run_id, me.init_id, me.final_id)
        elif module == "monai.bundle.scripts":
            files = frame.f_locals.get("config_file")  # a parameter of `run` and `create_workflow`
            run.files = run.files or ((files,) if isinstance(files, str | os.PathLike) else tuple(files or ()))
        elif module == "fire.core":
            by_fire = by_fire or callee.startswith("monai.bundle")
            if by_fire and name == "Fire":
                run.arguments = _arguments(frame.f_locals.get("command"))
                break
        callee, frame = module, frame.f_back
    return run


def _arguments(command: str | Sequence[str] | None) -> list[str] | None:
    line = sys.argv[1:] if command is None else shlex.split(command) if isinstance(command, str) else list(command)
    return line[1:] if line[:1] in (["run"], ["run_workflow"]) else None
