"""Where a node's results go: to another node by C-STORE, as stored, or to a DICOMweb server by STOW-RS."""

from __future__ import annotations

import contextlib
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pydicom
from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import AE, _config
from pynetdicom.association import Association
from pynetdicom.presentation import build_context

from invad_med.addresses import redacted
from invad_med.node.receiving import NODE, check_title

_STORED = (0x0000, 0xB000, 0xB006, 0xB007)
_HELD = 0x0111  # duplicate instance: UIDs are digests, so it is the same object
_MOST = 128  # presentation contexts of an association
_CONNECT = 15.0  # seconds
_BROKEN = 3  # objects at which an association ends, after which the others of a study wait too


class Unreachable(Exception):
    """Nobody answers at the destination; what is sent there next would not arrive either."""


class Declined(Exception):
    """The destination does not take what is sent, in words that name no patient."""


class Broken(Declined):
    """The destination ended the association at an object."""


class Destination(Protocol):
    """What takes objects."""

    @property
    def name(self) -> str:
        """What it is called in messages."""

    def send(self, paths: Sequence[Path]) -> None:
        """Send objects of one study.

        Raises:
            Unreachable, Declined: not all of them are stored there; they may be sent again.
        """


@dataclass(frozen=True)
class Peer:
    """Another node.

    Args:
        title: AE title it is called by.
        host, port: where it listens.
        calling: AE title that calls it.
        tls: what connections are wrapped by, or None.
    """

    title: str
    host: str
    port: int
    calling: str
    tls: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        check_title(self.title)

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"{self.title}@{self.host}:{self.port}"

    def send(self, paths: Sequence[Path]) -> None:
        """Send objects by C-STORE, each in its own transfer syntax.

        Raises:
            Unreachable, Declined: not all of them are stored there.
        """
        metas = [pydicom.filereader.read_file_meta_info(path) for path in paths]
        kinds = sorted({(str(m.MediaStorageSOPClassUID), str(m.TransferSyntaxUID)) for m in metas})
        if len(kinds) > _MOST:
            raise Declined(f"{len(kinds)} kinds of objects, and an association takes {_MOST}")
        _config.STORE_SEND_CHUNKED_DATASET = True  # files as they are, a piece at a time
        ae = AE(ae_title=self.calling)
        ae.connection_timeout = _CONNECT
        ae.requested_contexts = [build_context(sop_class, syntax) for sop_class, syntax in kinds]
        association = self._associate(ae)
        try:
            declined: list[Declined] = []
            for path in paths:  # what is declined keeps nothing else away
                if not association.is_established:
                    association = self._associate(ae)
                try:
                    _store(association, path)
                except Declined as error:
                    declined.append(error)
                    if sum(isinstance(error, Broken) for error in declined) == _BROKEN:
                        break
            if declined:
                raise Declined(f"{declined[0]} ({len(declined)} of {len(paths)} objects)")
        finally:
            association.release() if association.is_established else association.abort()

    def _associate(self, ae: AE) -> Association:
        """Return an association that is established.

        Raises:
            Unreachable, Declined: there is none.
        """
        tls = (self.tls, self.host) if self.tls else None
        association = ae.associate(self.host, self.port, ae_title=self.title, tls_args=tls)
        if association.is_rejected:
            raise Declined("it refuses the association: are the AE titles known there?")
        if association.is_established:
            if association.acceptor.implementation_version_name == NODE:
                association.release()
                raise Declined("it is a node of this program, which keeps no results: --forward names an archive")
            return association
        if association.rejected_contexts:
            names = {UID(str(context.abstract_syntax)).name for context in ae.requested_contexts}
            raise Declined(f"it takes none of {', '.join(sorted(names))}")
        raise Unreachable("it cannot be reached")


def _store(association: Association, path: Path) -> None:
    """Send an object.

    Raises:
        Declined: it is not stored there.
    """
    kind = pydicom.filereader.read_file_meta_info(path)
    name = kind.MediaStorageSOPClassUID.name
    try:
        answer = association.send_c_store(path)
    except ValueError:
        raise Declined(f"it does not take {name} in {kind.TransferSyntaxUID.name}") from None
    except RuntimeError:
        answer = Dataset()
    if "Status" not in answer:  # of this object: whether others arrive, the next association tells
        association.abort()
        raise Broken(f"it ended the association, or gave no answer, at {name}")
    if answer.Status not in (*_STORED, _HELD):
        raise Declined(f"it answers 0x{answer.Status:04X} to {name}")


class Stow:
    """A DICOMweb server; what it says it stored is read back.

    Args:
        address: its DICOMweb root.

    Raises:
        ValueError: the address has another form, or holds a password.
        ImportError: without the extra ``pacs``.
    """

    def __init__(self, address: str) -> None:
        from invad_med.archive import dicomweb

        self._open = lambda: dicomweb.Destination(address)
        self._server: dicomweb.Destination | None = None
        self._address = address
        with contextlib.suppress(ConnectionError):  # it may come
            self._server = self._open()

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return redacted(self._address)

    def send(self, paths: Sequence[Path]) -> None:
        """Send objects by STOW-RS.

        Raises:
            Unreachable, Declined: not all of them are stored there.
        """
        try:
            server = self._server = self._server or self._open()
        except ConnectionError as error:
            raise Unreachable(str(error)) from None
        server.failed.clear()
        server.store(paths)
        if server.failed:
            raise Declined("; ".join(server.failed))


def parse_peer(word: str) -> tuple[str, str, int]:
    """Return title, host and port of ``AET@HOST:PORT``.

    Raises:
        ValueError: the word has another form.
    """
    found = re.fullmatch(r"([^@]+)@(\[[0-9A-Fa-f:.]+\]|[^@:\s]+):(\d{1,5})", word)
    if not found or not 0 < int(found[3]) < 2**16:
        raise ValueError(
            "a destination is AET@HOST:PORT, or the DICOMweb root of a server as in https://HOST/dicom-web"
        )
    return found[1], found[2].strip("[]"), int(found[3])
