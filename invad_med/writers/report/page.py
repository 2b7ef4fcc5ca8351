"""What stands on the page of a run, and the page: one HTML file that needs nothing beside it and asks for nothing."""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from invad_med import __version__
from invad_med.data.modalities import find_modality
from invad_med.data.own_results import MARK
from invad_med.data.prediction import Prediction, Status
from invad_med.data.study import Study
from invad_med.writers.canvas import overlay
from invad_med.writers.naming import printable
from invad_med.writers.report.parts import Frame, Part
from invad_med.writers.table import six_digits

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Entry:
    """One study in the list.

    Args:
        number: its rank, from 1; a page's section about it is called ``study-<number>``.
        name: what it is called.
        state: ``above``, ``below`` or ``unknown``, for the colour.
        verdict: of the study, in numbers.
        slices: how many were scored and lie above, a sentence.
        page: the page with its pictures, relative to the index; empty for this one.
    """

    number: int
    name: str
    state: str
    verdict: str
    slices: str
    page: str = ""


@dataclass(frozen=True)
class Section:
    """All that a page says of one study.

    Args:
        entry: its line in the list.
        verdict: of the study, a sentence.
        facts: title and text.
        notes: sentences on how slices were read, and why their scores are withheld.
        model: what the model states of itself.
        viewer: what the script shows: see `viewer`.
    """

    entry: Entry
    verdict: str
    facts: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    model: Mapping[str, str | int | float]
    viewer: Mapping[str, Any]


@dataclass(frozen=True)
class Unscored:
    """Files or slices that were not scored, for one reason."""

    name: str
    slices: str
    status: str
    reason: str


def entry_of(number: int, name: str, study: Study, slices: Sequence[Prediction]) -> Entry:
    """Return the line of a study in the list; where its verdict is withheld, with its most abnormal slice."""
    state = {True: "above", False: "below", None: "unknown"}[study.abnormal]
    if study.score is not None:
        word = {True: "above: ", False: "not above: ", None: ""}[study.abnormal]
        verdict = word + _numbers(study.score, study.threshold, study.p_value)
    elif (first := min(slices, key=lambda p: p.rank, default=None)) is not None and first.score is not None:
        verdict = f"no study verdict; most abnormal slice: {_numbers(first.score, first.threshold, first.p_value)}"
    else:
        verdict = "no study verdict"
    scored = f"{study.scored} of {count(study.slices, 'slice')} scored"
    if study.above is not None:
        scored += f", {study.above} above the threshold of a slice"
    if study.expected_above is not None:
        scored += f", {study.expected_above:.2g} expected by chance"
    return Entry(number, printable(name), state, verdict, scored)


def verdict_of(study: Study) -> str:
    """Return what is said of a study as a whole, in a sentence."""
    withheld = f" ({study.withheld})" if study.withheld else ""
    if study.score is None:
        return printable(f"No verdict on the study as a whole{withheld}")
    state = {True: "Above the threshold", False: "Not above the threshold", None: "No threshold"}[study.abnormal]
    return printable(f"{state}: {_numbers(study.score, study.threshold, study.p_value)}{withheld}")


def _numbers(score: float, threshold: float | None, p_value: float | None) -> str:
    words = f"score {score:.3g}" + (f", threshold {threshold:.3g}" if threshold is not None else "")
    return words + (f", p\u00a0=\u00a0{p_value:.2g}" if p_value is not None else "")


def section_of(
    entry: Entry,
    study: Study,
    slices: Sequence[Prediction],
    parts: Sequence[Part],
    names: Mapping[str, str],
    frames: Mapping[tuple[str, int], Frame],
) -> Section:
    """Return all that a page says of a study.

    Args:
        entry: its line in the list.
        study: the study.
        slices: of it, in order.
        parts: of its sources, as far as there are any; their frames are not needed.
        names: what sources are called, by name.
        frames: the pictures that are shown, by source and index.
    """
    title = find_modality(study.modality or "")
    chosen = sorted({str(p.chosen_by) for p in slices if p.chosen_by})
    facts = [("model", f"{title.title if title else study.modality or 'none'}")]
    facts += [("chosen by", ", ".join(chosen))] if chosen else []
    engines = sorted({p.computed_by for p in slices if p.computed_by})
    facts += [("computed by", ", ".join(engines))] if engines else []
    for key in parts[0].about if parts else ():
        values = list(dict.fromkeys(part.about.get(key, "") for part in parts))
        facts.append((key, values[0] if len(values) == 1 else f"{values[0]} and others"))
    facts += [("sources", str(len(study.sources)))] if len(study.sources) > 1 else []
    reasons = dict.fromkeys(p.reason for p in slices if p.status is Status.SCORED and p.reason)
    return Section(
        entry,
        verdict_of(study),
        tuple((title, printable(text)) for title, text in facts),
        tuple(printable(reason) for reason in reasons),
        parts[0].model if parts else {},
        viewer(study, slices, names if len(study.sources) > 1 else {}, frames),
    )


def viewer(
    study: Study,
    slices: Sequence[Prediction],
    names: Mapping[str, str],
    frames: Mapping[tuple[str, int], Frame],
) -> dict[str, Any]:
    """Return what the script shows of a study, with numbers as the table has them.

    ``slices`` has a record for each slice: ``source`` (a name, where the study has several), ``index``, ``status``,
    ``score``, ``threshold``, ``p``, ``reason``, and what `Frame` has. ``quantity`` is what ``score`` is: where no slice
    has a calibrated one, the paper's. ``first`` is the position of the slice to begin with.
    """
    paper = all(p.score is None for p in slices)
    shown = [
        {
            "source": names.get(p.source.name, ""),
            "index": p.index,
            "status": str(p.status),
            "score": six_digits(p.paper_score if paper else p.score),
            "threshold": None if paper else six_digits(p.threshold),
            "p": six_digits(p.p_value),
            "reason": p.reason if p.status is not Status.SCORED else None,
            **_picture(frames.get((p.source.name, p.index))),
        }
        for p in slices
    ]
    places = {(p.source.name, p.index): place for place, p in enumerate(slices)}
    start = (study.first_slice[0].name, study.first_slice[1]) if study.first_slice else None
    first = places[start] if start in places else min(places.values(), key=lambda i: slices[i].rank, default=0)
    return {"quantity": "paper score" if paper else "score", "first": first, "slices": shown}


def _picture(frame: Frame | None) -> dict[str, Any]:
    if frame is None:
        return {}
    return {
        "picture": frame.picture,
        "rows": frame.rows,
        "columns": frame.columns,
        "cells": frame.cells,
        "peak": frame.peak,
    }


def unscored(predictions: Sequence[Prediction], names: Mapping[str, str]) -> list[Unscored]:
    """Return what was not scored: a row for each source and reason, in the order of names."""
    left = [p for p in predictions if p.status is not Status.SCORED]

    def key(p: Prediction) -> tuple[str, str, str]:
        return p.source.name, str(p.status), p.reason or ""

    rows = []
    for (name, status, reason), group in itertools.groupby(sorted(left, key=lambda p: (*key(p), p.index)), key=key):
        indices = [p.index for p in group]
        rows.append(Unscored(printable(names[name]), _spans(indices), status, printable(reason)))
    return rows


def _spans(indices: Sequence[int]) -> str:
    """Return positions, from 1, in words: ``3 to 7, 9``."""
    spans: list[tuple[int, int]] = []
    for index in indices:
        spans = (
            [*spans[:-1], (spans[-1][0], index)] if spans and spans[-1][1] == index - 1 else [*spans, (index, index)]
        )
    return ", ".join(f"{a + 1}" if a == b else f"{a + 1} to {b + 1}" for a, b in spans)


def count(number: int, one: str, several: str = "") -> str:
    """Return a number with its noun."""
    return f"{number} {one if number == 1 else several or one + 's'}"


def numbered(kind: str, names: Sequence[str]) -> dict[str, str]:
    """Return names -> ``source 01``, ..., numbered in their order."""
    ordered = sorted(set(names))
    width = len(str(len(ordered)))
    return {name: f"{kind} {number:0{width}d}" for number, name in enumerate(ordered, 1)}


def render(
    summary: Sequence[str],
    entries: Sequence[Entry],
    sections: Sequence[Section] = (),
    left: Sequence[Unscored] = (),
    around: Mapping[str, str] | None = None,
) -> str:
    """Return a page.

    Its policy forbids every connection and every script and style but its own, so that text from file names could do
    nothing even if it were not escaped.

    Args:
        summary: sentences on the run.
        entries: the list.
        sections: of the studies whose pictures are on this page.
        left: what was not scored.
        around: links to other pages: text -> relative address.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    script, style = (Path(_FOLDER, name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    colours, _ = overlay()
    viewers = {str(s.entry.number): s.viewer for s in sections}
    return environment.get_template("page.html.jinja").render(
        mark=MARK,
        version=__version__,
        policy=f"default-src 'none'; img-src data:; script-src {_digest(script)}; style-src {_digest(style)}; "
        "base-uri 'none'; form-action 'none'",
        script=script,
        style=style,
        data={"colours": base64.b64encode(colours.astype("u1").tobytes()).decode(), "studies": viewers},
        summary=summary,
        entries=entries,
        sections=sections,
        left=left,
        around=around or {},
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
