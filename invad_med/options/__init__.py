"""The command line of the bundle's configurations means what it says.

``monai.bundle run`` reads words as Python (``study#1`` becomes ``study``, ``2023_01_05`` a number), takes any key, and
passes ``false`` on as a word, which is true. The three configurations call `check_options` before anything is read:

| module | says |
|---|---|
| `kinds` | what every key takes: a path, a name, a switch, a number |
| `words` | which words a command line gives which key |
| `values` | what a word or value means to a kind |
| `keys` | which keys the configuration does not have, and the nearest one |
| `errors` | how an error of this package ends a run |
| `secrets` | which of them hold a password, and must not be repeated |
| `check` | all of it, applied to the configuration that is being run |

For users: docs/command_line.md.
"""

from invad_med.options.check import (
    check_options,
    check_parser,
    checked,
    part_if_given,
    plain_from_value,
    plain_from_word,
    plain_keys,
    read_overrides,
    settings,
    settings_of,
)
from invad_med.options.secrets import refuse_secrets
from invad_med.options.values import OptionError, literals, switch
from invad_med.options.words import words

__all__ = [
    "OptionError",
    "check_options",
    "check_parser",
    "checked",
    "literals",
    "part_if_given",
    "plain_from_value",
    "plain_from_word",
    "plain_keys",
    "read_overrides",
    "refuse_secrets",
    "settings",
    "settings_of",
    "switch",
    "words",
]
