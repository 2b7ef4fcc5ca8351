"""Credentials in addresses, refused before anything repeats what was given.

MONAI prints a summary of its arguments as soon as the steps of ``initialize`` are done, which call `check_options`:
what is refused there is printed nowhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from invad_med.addresses import OF_DICOMWEB, OF_MLFLOW, holds_credentials, mentions_credentials
from invad_med.options.values import OptionError, is_syntax

_ADDRESSES = ("dataset_dir", "dicom_destination", "destination", "tracking_uri")  # keys that addresses are given to


def refuse_secrets(values: Mapping[str, Any], printed: bool = False) -> None:
    """Raise if a value, however deep, holds an address with a credential.

    Without ``scheme://`` only what a key of addresses is given is taken for one, unless it is there as a file.

    Args:
        values: words or values by key.
        printed: whether MONAI has shown them already.

    Raises:
        OptionError: one does; it is not quoted.
    """
    for key, text in _strings("", values):
        last = key.rpartition("::")[2]
        found = mentions_credentials(text)
        if not found and not is_syntax(text) and (last in _ADDRESSES or not key):
            found = holds_credentials(text) and not os.path.exists(text)
        if found:
            where = OF_MLFLOW if last == "tracking_uri" else OF_DICOMWEB
            shown = f"--{key.replace('::', '#')}" if key and not mentions_credentials(key) else "a word"
            again = ". Change the password: it was printed before this could be seen" if printed else ""
            raise OptionError(
                f"{shown}: an address must hold no user and password, they end up in logs: {where}{again}"
            )


def _strings(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str | os.PathLike):
        yield key, str(value)
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from _strings(f"{key}::{name}" if key else str(name), part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _strings(key, part)
