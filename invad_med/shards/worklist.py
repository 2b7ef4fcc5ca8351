"""The worklist of an archive: its studies, the most abnormal first, with links into a viewer where there is one."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass, fields
from html import escape
from pathlib import Path
from urllib.parse import quote, urlsplit

from invad_med.addresses import refuse_credentials
from invad_med.data.modalities import find_modality
from invad_med.data.own_results import MARK
from invad_med.files import WholeFile, write_atomically
from invad_med.writers.naming import printable
from invad_med.writers.table import as_csv, six_digits

_AT_ONCE = 10000  # rows of the table that are written together
_STYLE = """body { font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #222; max-width: 1180px;
margin: 2rem auto; padding: 0 1.5rem; } table { border-collapse: collapse; font-size: .9rem; width: 100%; }
th, td { text-align: left; padding: .3rem .5rem; border-bottom: 1px solid #e3e3e3; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; } tr.above td.v { color: #b3261e; }
td.v { font-weight: 600; } td.name { overflow-wrap: anywhere; }"""
_HEAD = (
    ("", "n"), ("study", ""), ("shows", ""), ("verdict", ""), ("p-value", "n"), ("score", "n"), ("threshold", "n"),
    ("slices above", "n"), ("first look at", "n"), ("", ""),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ListedStudy:
    """What the slices of one source come to; the columns of the table, and what sorts and links it.

    Args:
        rank: sorts the most abnormal first: `Judged.rank` of the study, then of its most abnormal slice.
        input: name of the source.
        study, series: digests of UIDs; None of what is no DICOM.
        modality: whose model scored it.
        slices, scored, above, expected_above, score, p_value, threshold, abnormal, reason: as in the table of studies.
        first_slice: the most abnormal, from 0.
        uids: Study and Series Instance UID, for a link.
    """

    rank: tuple[float, ...]
    input: str
    study: str | None
    series: str | None
    modality: str | None
    slices: int
    scored: int
    above: int | None
    expected_above: float | None
    score: float | None
    p_value: float | None
    threshold: float | None
    abnormal: bool | None
    first_slice: int | None
    reason: str | None
    uids: tuple[str | None, str | None]


COLUMNS = ("rank", *(field.name for field in fields(ListedStudy) if field.name not in ("rank", "uids")))


def require_link(template: str) -> str:
    """Return a template of a viewer's address, such as ``https://HOST/viewer?StudyInstanceUIDs={study}``.

    Args:
        template: with ``{study}``, and ``{series}`` if the viewer takes it, in place of UIDs.

    Raises:
        ValueError: it is none, or holds a credential.
    """
    refuse_credentials(template, "let the viewer ask for them")
    try:
        parts = [part for part in string.Formatter().parse(template) if part[1] is not None]
        names = {f"{name}{spec or ''}{'!' if conversion else ''}" for _, name, spec, conversion in parts}
    except ValueError:
        names = {""}
    if urlsplit(template).scheme not in ("http", "https") or "study" not in names or names - {"study", "series"}:
        raise ValueError(
            f"--viewer_url {template!r} is no address of a study: one such as "
            "https://HOST/viewer?StudyInstanceUIDs={study} is expected; {series} may stand in it too"
        )
    return template


def link(template: str | None, study: ListedStudy) -> str | None:
    """Return where a viewer shows a study; None without a template, or without a UID that it needs."""
    uids = dict(zip(("study", "series"), study.uids, strict=True))
    if template is None or not all(uid for name, uid in uids.items() if f"{{{name}}}" in template):
        return None
    return template.format(**{name: quote(uid or "", safe="") for name, uid in uids.items()})


@dataclass(frozen=True)
class Lacking:
    """What a worklist is without.

    Args:
        slices: that could not be read or scored.
        shards: that are not scored yet.
    """

    slices: int = 0
    shards: int = 0

    def __str__(self) -> str:
        parts = [f"{self.slices} slices or files could not be read or scored"] * bool(self.slices)
        parts += [f"{self.shards} shards are not scored yet and not in it"] * bool(self.shards)
        return "; ".join(parts)


def write_worklist(
    studies: list[ListedStudy], out: Path, viewer_url: str | None, top: int, lacking: Lacking
) -> tuple[Path, Path]:
    """Write ``worklist.csv`` with all studies and ``worklist.html`` with the first; return their paths.

    Args:
        studies: in any order; sorted in place.
        out: folder.
        viewer_url: as `require_link` takes it; None: no UID stands in either file.
        top: how many the page lists.
        lacking: what the page says is not in it.

    Raises:
        ValueError: the template is none.
        OSError: a file cannot be written.
    """
    if viewer_url is not None:
        require_link(viewer_url)
    studies.sort(key=lambda study: (study.rank, study.input))
    columns = [*COLUMNS, *["link"] * (viewer_url is not None)]
    table = WholeFile(out / "worklist.csv")
    try:
        table.write(as_csv([], columns))
        for start in range(0, len(studies), _AT_ONCE):
            rows = [_row(start + k, s, viewer_url) for k, s in enumerate(studies[start : start + _AT_ONCE], 1)]
            table.write(as_csv(rows, columns, header=False))
        table.close()
    finally:
        table.abandon()
    page = out / "worklist.html"
    write_atomically(page, _page(studies, viewer_url, top, lacking).encode())
    return table.path, page


def _row(number: int, study: ListedStudy, viewer_url: str | None) -> dict[str, object]:
    values = {name: getattr(study, name) for name in COLUMNS} | {"rank": number, "link": link(viewer_url, study)}
    return {name: six_digits(value) if isinstance(value, float) else value for name, value in values.items()}


def _page(studies: Sequence[ListedStudy], viewer_url: str | None, top: int, lacking: Lacking) -> str:
    shown = studies[:top]
    judged = [study.abnormal for study in studies if study.abnormal is not None]
    rest = f" The first {len(shown)} are listed; worklist.csv has all." if len(shown) < len(studies) else ""
    without = f" <strong>{lacking}.</strong>" if str(lacking) else ""
    head = "".join(f'<th class="{kind}">{escape(text)}</th>' for text, kind in _HEAD)
    rows = "\n".join(_line(number, study, viewer_url) for number, study in enumerate(shown, 1))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="generator" content="{MARK}">\n'
        f"<title>Worklist</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>Worklist</h1>\n"
        f"<p>Research use only, not for diagnosis. {len(studies)} studies (volumes, series, images), {sum(judged)} of "
        f"{len(judged)} with a verdict above their threshold, the most abnormal first, by p-value among normal "
        f"patients or images.{rest}{without}</p>\n<table>\n<tr>{head}</tr>\n{rows}\n</table>\n</body>\n</html>\n"
    )


def _line(number: int, study: ListedStudy, viewer_url: str | None) -> str:
    modality = find_modality(study.modality or "")
    state = {True: "above", False: "below", None: "none"}[study.abnormal]
    verdict = {"above": "above threshold", "below": "below", "none": study.reason or "no verdict"}[state]
    above = "" if study.above is None else f"{study.above} of {study.scored}, {study.expected_above or 0:.1f} by chance"
    first = "" if study.first_slice is None else f"{study.first_slice + 1} of {study.slices}"
    address = link(viewer_url, study)
    cells = [
        (str(number), "n"), (printable(study.input), "name"), (modality.title if modality else "", ""), (verdict, "v"),
        (_number(study.p_value), "n"), (_number(study.score), "n"), (_number(study.threshold), "n"), (above, "n"),
        (first, "n"),
    ]  # fmt: skip
    html = "".join(f'<td class="{kind}">{escape(text)}</td>' for text, kind in cells)
    opened = f'<a href="{escape(address)}" rel="noreferrer">open</a>' if address else ""
    return f'<tr class="{state}">{html}<td>{opened}</td></tr>'


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
