"""DICOMweb: images from a server into a private folder (QIDO-RS, WADO-RS), objects to a server (STOW-RS).

What is said aloud names neither a UID, which leads to the patient within the hospital, nor a credential. Those come
from ``~/.netrc`` or as bearer tokens from the environment: ``INVAD_SOURCE_TOKEN``, ``INVAD_DESTINATION_TOKEN``.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import signal
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterable
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import pydicom
from tqdm import tqdm

from invad_med.addresses import DESTINATION_TOKEN, OF_DICOMWEB, SOURCE_TOKEN, refuse_credentials
from invad_med.archive.held import holds
from invad_med.data.slices import Problem

try:
    import requests
    from dicomweb_client import DICOMwebClient
    from dicomweb_client.uri import URI
    from retrying import RetryError
except ImportError as error:
    raise ImportError('a DICOMweb address needs dicomweb-client: pip install "invad-med[pacs]"') from error

logger = logging.getLogger(__name__)

_TIMEOUT = (10.0, 120.0)  # seconds to connect, and between two pieces of an answer
_PAUSE = 600.0  # seconds
_CLOSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED)
_DUPLICATE = 0x0111  # failure reason: the server holds that UID already, and says so
_ANOTHER = (
    "the server keeps another object that it held under the same UID; remove that one there, or run without "
    "deterministic_uids"
)
_FORM = "https://HOST/dicom-web/studies/UID, .../studies/UID/series/UID or .../series/UID/instances/UID"


def fetch(address: str) -> tuple[TemporaryDirectory[str], list[Problem]]:
    """Copy a study, series or instance, as the server stores it, into a folder that only this user can open.

    The folder is removed with the returned object, at the latest when the process ends, also by SIGTERM or SIGHUP.

    Args:
        address: of the study, series or instance.

    Returns:
        The folder, and the instances that could not be fetched.

    Raises:
        ValueError: the address has another form, or holds a password.
        ConnectionError: the server cannot be reached, refuses, or hands out no image.
    """
    uri = _resource(address)
    if uri.study_instance_uid is None:
        raise ValueError(f"the address names a whole server, not a study; expected is {_FORM}")
    client = _client(uri.base_url, SOURCE_TOKEN)
    try:
        found = _instances(client, uri)
    except Exception as error:
        raise ConnectionError(f"{_host(uri)} cannot be asked for the study: {_reason(error, SOURCE_TOKEN)}") from None
    if not found:
        raise ConnectionError(f"{_host(uri)} has no image of that study or series")
    _clean_up_when_terminated()
    folder = TemporaryDirectory(prefix="invad-med-", ignore_cleanup_errors=True)
    problems: list[Problem] = []
    try:
        lost = ""
        for instance, series in tqdm(sorted(found.items()), desc="fetch", unit="file"):
            path = Path(folder.name) / f"image-{hashlib.sha256(instance.encode()).hexdigest()[:16]}.dcm"
            reason = lost
            if not lost:
                try:
                    _save(client, (uri.study_instance_uid, series, instance), path)
                except Exception as error:
                    path.unlink(missing_ok=True)
                    reason = f"not fetched: {_reason(error, SOURCE_TOKEN)}"
                    lost = reason if _unreachable(error) else ""
            if reason:
                problems.append(Problem(path, reason))
        if len(problems) == len(found):
            reasons = sorted({p.reason for p in problems})
            raise ConnectionError(f"{_host(uri)} hands out none of {len(found)} images. {'; '.join(reasons[:5])}")
    except BaseException:
        folder.cleanup()
        raise
    return folder, problems


class Destination:
    """A server that objects are stored on.

    What it says it stored is read back, because an archive may discard an object of a UID that it holds already and
    answer as if it had stored it. A server that hands nothing out is believed, and that is said once.

    Args:
        address: its DICOMweb root.

    Raises:
        ValueError: the address has another form, or holds a password.
        ConnectionError: the server cannot be reached or asks for other credentials.
    """

    def __init__(self, address: str) -> None:
        uri = _resource(address)
        if uri.study_instance_uid is not None or address.rstrip("/").endswith("/studies"):
            raise ValueError("the destination is the DICOMweb root of a server, as in https://HOST/dicom-web")
        self.stored, self.failed = 0, Counter[str]()
        self.host = _host(uri)
        self._asked_from, self._doubted = 0.0, False
        self._client = _client(uri.base_url, DESTINATION_TOKEN, {"Accept": "application/dicom+json"})
        try:  # before hours of work; a server may take objects from users that it does not let search
            self._client.search_for_studies(limit=1)
        except Exception as error:
            if _unreachable(error) or _status(error) == HTTPStatus.UNAUTHORIZED:
                reason = _reason(error, DESTINATION_TOKEN)
                raise ConnectionError(f"destination {self.host} cannot be used: {reason}") from None

    def store(self, paths: Iterable[Path]) -> None:
        """Send objects, one by one, and count in ``stored`` and ``failed`` what became of each.

        Args:
            paths: of one source; they stay where they are. Once the server is out of reach the rest is not tried.
        """
        lost = ""
        for path in paths:
            try:
                reason = lost or self._store(path)
            except Exception as error:
                reason = _reason(error, DESTINATION_TOKEN)
                lost = reason if _unreachable(error) else ""
            if reason:
                self.failed[reason] += 1
            else:
                self.stored += 1

    def _store(self, path: Path) -> str:
        """Return why an object was not stored, or nothing."""
        ds = pydicom.dcmread(path)
        try:
            answer = self._client.store_instances([ds])
        except requests.HTTPError as error:
            try:  # 409 may bring the reason
                answer = pydicom.Dataset.from_json(error.response.json() if error.response is not None else {})
            except Exception:
                answer = pydicom.Dataset()
            if not answer.get("FailedSOPSequence"):
                raise
        refusals = [int(item.get("FailureReason") or 0) for item in answer.get("FailedSOPSequence") or []]
        confirmed = {item.get("ReferencedSOPInstanceUID") for item in answer.get("ReferencedSOPSequence") or []}
        if refusals and refusals[0] != _DUPLICATE:
            return f"the server refuses it, failure reason {refusals[0]:#06x}"
        if not refusals and ds.SOPInstanceUID not in confirmed:
            return "the server does not confirm it"
        held = self._holds(ds)
        if held is None and refusals:
            return f"the server refuses it, failure reason {refusals[0]:#06x}: it holds an object of the same UID"
        return _ANOTHER if held is False else ""

    def _holds(self, ds: pydicom.Dataset) -> bool | None:
        """Return whether a server holds an object and no other of its UID; None where it does not let that be seen."""
        if time.monotonic() < self._asked_from:
            return None
        uids = str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID), str(ds.SOPInstanceUID)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # they quote values
                return holds(_retrieve(self._client, uids), ds)
        except Exception as error:
            if _status(error) == HTTPStatus.NOT_FOUND and self._elsewhere(uids):
                return False
            # a server that forbids is not asked again, one that takes minutes to say that it cannot not for a while
            if _status(error) in _CLOSED:
                self._asked_from = math.inf
            elif isinstance(error, RetryError) or _unreachable(error):
                self._asked_from = time.monotonic() + _PAUSE
            if not self._doubted:
                self._doubted = True
                reason = _reason(error, DESTINATION_TOKEN).partition(";")[0]
                logger.warning(
                    "not confirmed: %s says that it stored objects, but they cannot be read back from it (%s)",
                    self.host,
                    reason,
                )
            return None

    def _elsewhere(self, uids: tuple[str, str, str]) -> bool:
        """Return whether the server holds an instance of a UID in another series than the one it was sent for."""
        try:
            rows = self._client.search_for_instances(search_filters={"SOPInstanceUID": uids[2]})
            found = [pydicom.Dataset.from_json(row) for row in rows]
        except Exception:
            return False
        series = {r.get("SeriesInstanceUID") for r in found if r.get("SOPInstanceUID") == uids[2]} - {None}
        return bool(series) and uids[1] not in series


def _resource(address: str) -> URI:
    """Return what an address names; raise ValueError, without quoting it, if it has another form."""
    refuse_credentials(address, OF_DICOMWEB)
    parts = urlsplit(address)
    try:
        uri = URI.from_string(address.rstrip("/"), permissive=True)
    except ValueError:
        uri = None
    if uri is None or not parts.hostname or parts.query or parts.fragment or uri.frames or uri.suffix:
        raise ValueError(f"not the address of a DICOMweb study; expected is {_FORM}")
    return uri


def _client(base: str, token: str, headers: dict[str, str] | None = None) -> DICOMwebClient:
    logging.getLogger("dicomweb_client").setLevel(logging.ERROR)  # it logs UIDs
    session = requests.Session()
    session.hooks["response"].append(_plain)
    if os.environ.get(token):
        session.auth = _Bearer(os.environ[token])
    client = DICOMwebClient(base, session, headers=headers, permissive_uid=True, timeout=_TIMEOUT)
    client.set_http_retry_params(max_attempts=3, wait_exponential_multiplier=250)  # its own wait 30 s for every image
    return client


class _Bearer(requests.auth.AuthBase):
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _plain(response: requests.Response, *_: Any, **__: Any) -> None:
    """Drop parameters such as the charset from the type of a JSON answer, which the client does not expect there."""
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip()
    if kind.endswith("json"):
        response.headers["Content-Type"] = kind


def _instances(client: DICOMwebClient, uri: URI) -> dict[str, str]:
    """Return SOP Instance UID -> Series Instance UID of what an address names."""
    if uri.sop_instance_uid is not None:
        return {uri.sop_instance_uid: str(uri.series_instance_uid)}
    found: dict[str, str] = {}
    while True:  # servers may answer in pages; one that does not know offsets gives the first again
        page = client.search_for_instances(uri.study_instance_uid, uri.series_instance_uid, offset=len(found))
        rows = [pydicom.Dataset.from_json(row) for row in page]
        new = {str(r.SOPInstanceUID): str(r.get("SeriesInstanceUID") or uri.series_instance_uid) for r in rows}
        if not new.keys() - found.keys():
            return found
        found |= new


def _save(client: DICOMwebClient, uids: tuple[str, str, str], path: Path) -> None:
    ds = _retrieve(client, uids)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of header values that break small rules
        ds.save_as(path)


def _retrieve(client: DICOMwebClient, uids: tuple[str, str, str]) -> pydicom.Dataset:
    """Return an instance as the server stores it; raise ValueError if it hands out another UID."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of answers and header values that break small rules
        ds = client.retrieve_instance(*uids, media_types=(("application/dicom", "*"),))
    if ds.get("SOPInstanceUID") != uids[2]:
        raise ValueError("another object")
    return ds


def _host(uri: URI) -> str:
    parts = urlsplit(uri.base_url)
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that an error stands for, if it does."""
    if isinstance(error, RetryError) and not error.last_attempt.has_exception:
        return int(error.last_attempt.value.status_code)
    response = error.response if isinstance(error, requests.HTTPError) else None
    return None if response is None else response.status_code


def _unreachable(error: BaseException) -> bool:
    return isinstance(error, requests.ConnectionError | requests.Timeout)


def _reason(error: BaseException, token: str) -> str:
    """Return what went wrong, without the address, which libraries quote."""
    status = _status(error)
    if status is not None:
        phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "unknown"
        advice = f"; name user and password in ~/.netrc or a token in {token}" if status in (401, 403) else ""
        advice = "; is the address right?" if status == 404 else advice
        return f"the server answers {status} ({phrase}){advice}"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not trusted; name your authority's file in REQUESTS_CA_BUNDLE"
    if isinstance(error, requests.Timeout):
        return "the server does not answer in time"
    if isinstance(error, requests.ConnectionError):
        return "the server cannot be reached"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"the answer is not what DICOMweb asks for ({type(error).__name__})"


def _clean_up_when_terminated() -> None:
    """Let SIGTERM and SIGHUP end the process as an exit does, so that nothing fetched is left behind."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, lambda received, _: sys.exit(128 + received))
