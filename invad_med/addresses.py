"""Addresses of servers as users give them: none may hold a credential, since addresses end up in logs."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlsplit

# Where a user's name, password or token belongs.
SOURCE_TOKEN, DESTINATION_TOKEN = "INVAD_SOURCE_TOKEN", "INVAD_DESTINATION_TOKEN"
MLFLOW_USER, MLFLOW_PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
OF_DICOMWEB = f"name them in ~/.netrc, or a token in {SOURCE_TOKEN} or {DESTINATION_TOKEN}"
OF_MLFLOW = f"name them in {MLFLOW_USER} and {MLFLOW_PASSWORD} (a database's where its driver looks, as in ~/.pgpass)"

_SECRETS = ("password", "passwd", "pwd", "token", "secret", "key")  # in the name of a query's parameter
_ADDRESS = re.compile(r"[A-Za-z][\w+.-]*://[^\s'\"]+")
_LOCAL = ("sqlite", "file")  # a path follows, in which @ is a letter like any other


def holds_credentials(address: str) -> bool:
    """Return whether an address holds a user and password, or a parameter that is named like a secret.

    A database's user alone (``postgresql://user@host/name``) is none; of a web address it is, tokens stand there.
    """
    scheme, mark, rest = address.partition("://")
    if not mark:  # http:// may have been forgotten
        return re.match(r"[^/\\@:]+:[^/\\@]+@", address) is not None
    if scheme.partition("+")[0].casefold() in _LOCAL:
        return False
    before, at, _ = rest.rpartition("@")
    web = scheme.casefold() in ("http", "https")
    if at and (web or ":" in before):
        return True
    try:
        query = urlsplit(address).query
    except ValueError:  # no address at all, which whoever opens it will say
        query = rest.partition("?")[2]
    return any(secret in name.casefold() for name, _ in parse_qsl(query) for secret in _SECRETS)


def mentions_credentials(text: str) -> bool:
    """Return whether a text, such as an expression, holds ``scheme://`` addresses with credentials in them."""
    return any(map(holds_credentials, _ADDRESS.findall(text)))


def refuse_credentials(address: str, instead: str) -> None:
    """Raise unless an address is free of credentials.

    Args:
        address: as given.
        instead: where to put them, for the message.

    Raises:
        ValueError: it holds one; the message does not quote it.
    """
    if holds_credentials(address):
        raise ValueError(f"an address must hold no user and password, they end up in logs: {instead}")


def redacted(address: str) -> str:
    """Return an address with what may be a credential in it replaced by ``***``, to be shown."""
    if not holds_credentials(address):
        return address
    scheme, mark, rest = address.partition("://")
    if not mark:
        scheme, rest = "", address
    return scheme + mark + "***@" + rest.rpartition("@")[2].partition("?")[0]
