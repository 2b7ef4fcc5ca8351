"""The door of a node: who may send to it, and which status answers what was sent.

| status | answers |
|---|---|
| 0x0000 | an instance that is on the disk, or was before; a result of this program, which is not kept |
| 0xA700 | an instance that could not be written, as on a full disk: nothing of it is kept |
| 0xA900 | a data set of another instance than the command says, or without Study Instance UID |
| 0xC000 | what cannot be read |
| 0xC100 | an instance of another patient than those of its study that are there |

Every class that is, or may be, of storage is taken, private ones too, in whatever transfer syntax it is proposed first.
"""

from __future__ import annotations

import logging
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from pydicom.dataset import Dataset

from invad_med.node.instances import NOT_READ, NotTaken, read_instance
from invad_med.node.store import Store

try:
    from pynetdicom import AE, _config, evt
    from pynetdicom.association import Association
    from pynetdicom.dimse_primitives import C_STORE
    from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
    from pynetdicom.transport import ThreadedAssociationServer
except ImportError as error:
    raise ImportError('a DICOM node needs pynetdicom: pip install "invad-med[node]"') from error

audit = logging.getLogger("invad_med.node")

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
NODE = "INVAD_MED_NODE"  # what a node calls its implementation, by which another knows that it keeps no results
_ASSOCIATIONS = 16  # at a time; of each an instance is held in memory
_PDU = 2**17  # bytes of a piece that is received


@dataclass(frozen=True)
class Titles:
    """Who takes part.

    Args:
        own: AE title that must be called.
        allowed: AE titles that may call, at least one.

    Raises:
        ValueError: one is no AE title.
    """

    own: str
    allowed: tuple[str, ...]

    def __post_init__(self) -> None:
        for title in (self.own, *self.allowed):
            check_title(title)
        if not self.allowed:
            raise ValueError("nobody may send: name the AE titles that may, by --allow AET")


def check_title(title: str) -> None:
    """Raise ValueError unless a word is an AE title (PS3.5, 6.2)."""
    if not (0 < len(title.strip()) <= 16 and title.isascii() and title.isprintable() and "\\" not in title):
        raise ValueError(f"{title!r} is no AE title: 1 to 16 characters of ASCII, no backslash")


class Receiver:
    """Takes instances from the network into a store.

    Args:
        store: where they go.
        titles: who takes part.
        arrived: told the name of a study of which an instance was kept.
    """

    def __init__(self, store: Store, titles: Titles, arrived: Callable[[str], object]) -> None:
        self.store, self.titles, self.arrived = store, titles, arrived
        self._counts: dict[Association, Counter[str]] = {}
        self._server: ThreadedAssociationServer | None = None

    def start(self, address: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Begin to listen, in threads of their own; return the port.

        Args:
            address: of the interface, ``0.0.0.0`` for all.
            port: 0 for a free one.
            tls: what connections are wrapped by.

        Raises:
            OSError: the port cannot be had.
        """
        quiet()
        _config.UNRESTRICTED_STORAGE_SERVICE = True
        ae = AE(ae_title=self.titles.own)
        ae.implementation_version_name = NODE
        ae.require_called_aet = True
        ae.require_calling_aet = list(self.titles.allowed)
        ae.maximum_associations = _ASSOCIATIONS
        ae.maximum_pdu_size = _PDU
        ae.add_supported_context(Verification)
        handlers: list[tuple[evt.NotificationEvent | evt.InterventionEvent, Callable[[evt.Event], object]]] = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_ACCEPTED, self._accepted),
            (evt.EVT_REJECTED, self._rejected),
            (evt.EVT_CONN_CLOSE, self._closed),
        ]
        server = ae.start_server((address, port), block=False, evt_handlers=handlers, ssl_context=tls)  # type: ignore[arg-type]
        assert server is not None
        self._server = server
        return int(server.server_address[1])

    def stop(self) -> None:
        """Take nothing more."""
        if self._server is not None:
            self._server.shutdown()

    def _store(self, event: evt.Event) -> Dataset:
        """Keep an instance and answer; what is raised here would be answered too, but with words of its own."""
        answer, count = Dataset(), self._counts.get(event.assoc, Counter())
        try:
            said = self._take(event)
            answer.Status = SUCCESS
            count[said] += 1
            return answer
        except NotTaken as error:
            answer.Status, reason = error.status, str(error)
        except (OSError, MemoryError) as error:
            answer.Status, reason = OUT_OF_RESOURCES, getattr(error, "strerror", None) or "out of resources"
        except Exception as error:  # libraries quote values, which can be the patient's name
            answer.Status, reason = NOT_READ, f"not understood ({type(error).__name__})"
        answer.ErrorComment = reason[:64]
        count["refused"] += 1
        audit.warning("refused with 0x%04X from %s: %s", answer.Status, _peer(event), reason)
        return answer

    def _take(self, event: evt.Event) -> str:
        content, request = event.encoded_dataset(), cast(C_STORE, event.request)
        uid, sop_class = str(request.AffectedSOPInstanceUID or ""), str(request.AffectedSOPClassUID or "")
        instance = read_instance(content, sop_class, uid)
        if instance.own:
            return "own result, not kept"
        taken = self.store.receive(instance, content)
        self.arrived(self.store.name_of(instance.study))
        return str(taken)

    def _accepted(self, event: evt.Event) -> None:
        self._counts[event.assoc] = Counter()

    def _rejected(self, event: evt.Event) -> None:
        called = event.assoc.requestor.primitive.called_ae_title if event.assoc.requestor.primitive else ""
        audit.warning("association refused from %s, called %r: titles, or too many at a time", _peer(event), called)

    def _closed(self, event: evt.Event) -> None:
        count = self._counts.pop(event.assoc, None)
        if count:
            audit.info("from %s: %s", _peer(event), ", ".join(f"{n} {what}" for what, n in sorted(count.items())))


def _peer(event: evt.Event) -> str:
    requestor = event.assoc.requestor
    return f"{requestor.ae_title!r} at {requestor.address}"


def quiet() -> None:
    """Silence libraries for as long as the process lives: they quote values, which can be the patient's name."""
    for name in ("pynetdicom", "pydicom", "highdicom", "dicomweb_client"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
