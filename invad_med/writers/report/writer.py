"""The page of a run, written: a part for each source as it is done, and ``report.html`` of all parts at the end.

| studies with pictures | files |
|---|---|
| up to 200, of up to 15 MB together | ``report.html`` |
| more | ``report.html`` is a list that leads to ``report/0001.html``, ..., each of up to 200 studies and 15 MB |

A study that alone would take more, a folder of many images, shows pictures of its most abnormal slices.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from invad_med.data.own_results import is_marked_text
from invad_med.data.prediction import Prediction, Status
from invad_med.data.provenance import Provenance
from invad_med.data.slices import Problem, Slice, Source
from invad_med.data.study import Study
from invad_med.files import write_atomically
from invad_med.readers.dicom.stored import StoredImage, has_burned_in_text
from invad_med.writers.naming import part_path, printable
from invad_med.writers.report import page
from invad_med.writers.report.parts import Frame, Part, about_of, frame_of, read_part, write_part
from invad_med.writers.table import relative_name

logger = logging.getLogger(__name__)

PAGE = "report.html"
_STUDIES, _BYTES = 200, 14_700_000  # of a page; the rest of 15 MB is for words
_ROWS = 1000  # of what was not scored


class ReportWriter:
    """Write the page of a run.

    Args:
        anonymize: number sources, studies and files instead of naming them, and show no picture that declares burned-in
            text.
    """

    def __init__(self, anonymize: bool = False) -> None:
        self.anonymize = anonymize

    def begin(self, output_dir: Path, source: Source, provenance: Provenance) -> PartWriter:
        """Begin the part of one source.

        Args:
            output_dir: folder of the run.
            source: the source.
            provenance: of the model that scores it.
        """
        return PartWriter(output_dir, source, provenance, self.anonymize)

    def write(
        self,
        output_dir: Path,
        studies: Sequence[Study],
        predictions: Sequence[Prediction],
        problems: Sequence[Problem],
        base: Path,
    ) -> Path:
        """Write ``report.html`` and the pages that it leads to, and return its path.

        Pages of an earlier run that are no more are removed. A part that is missing or broken costs its pictures.

        Args:
            output_dir: folder of the run, with the parts.
            studies: all of them.
            predictions: of all slices of the run.
            problems: files that were not read.
            base: folder that was searched; files are named by their path below it.

        Raises:
            OSError: a page cannot be written.
        """
        run = self._run(output_dir, studies, predictions)
        unread = self._unread(problems, base)
        left = [*page.unscored(predictions, run.names), *unread]
        summary = _summary(run.studies, predictions, len(unread), len(left))
        groups = list(_groups(run))
        entries: list[page.Entry] = []
        for place, group in enumerate(groups, 1):
            own = [
                page.entry_of(number, run.titles[study.name], study, run.slices_of(study))
                for number, study in enumerate(group, len(entries) + 1)
            ]
            sections = [_section(run, entry, study) for entry, study in zip(own, group, strict=True)]
            if len(groups) == 1:
                text = page.render(summary, own, sections, left[:_ROWS])
                write_atomically(output_dir / PAGE, text.encode())
                break
            around = {"all studies": f"../{PAGE}"}
            around |= {"more abnormal": _name(place - 1)} if place > 1 else {}
            around |= {"less abnormal": _name(place + 1)} if place < len(groups) else {}
            write_atomically(output_dir / "report" / _name(place), page.render((), own, sections, (), around).encode())
            entries += [replace(entry, page=f"report/{_name(place)}") for entry in own]
        if len(groups) != 1:
            write_atomically(output_dir / PAGE, page.render(summary, entries, (), left[:_ROWS]).encode())
        _remove_pages(output_dir, len(groups) if len(groups) > 1 else 0)
        return output_dir / PAGE

    def _run(self, output_dir: Path, studies: Sequence[Study], predictions: Sequence[Prediction]) -> _Run:
        slices: dict[str, list[Prediction]] = {}
        for prediction in predictions:
            slices.setdefault(prediction.source.name, []).append(prediction)
        for of_source in slices.values():
            of_source.sort(key=lambda p: p.index)
        names, titles = list(slices), [study.name for study in studies]
        run = _Run(
            output_dir,
            (),
            slices,
            page.numbered("source", names) if self.anonymize else dict(zip(names, names, strict=True)),
            page.numbered("study", titles) if self.anonymize else dict(zip(titles, titles, strict=True)),
        )
        shown = [study for study in studies if run.slices_of(study) and (study.scored or run.size_of(study))]
        return replace(run, studies=shown)

    def _unread(self, problems: Sequence[Problem], base: Path) -> list[page.Unscored]:
        names = {problem.path: relative_name(problem.path, base) for problem in sorted(problems, key=lambda p: p.path)}
        numbers = page.numbered("file", list(names.values()))
        reasons = {problem.path: problem.reason for problem in problems}
        return [
            page.Unscored(
                printable(numbers[name] if self.anonymize else name),
                "",
                str(Status.UNREADABLE),
                printable(reasons[path]),
            )
            for path, name in names.items()
        ]


class PartWriter:
    """The part of one source in the making, which holds pictures of up to 15 MB: give it every slice that was read.

    Args:
        output_dir, source, provenance: as `ReportWriter.begin`.
        anonymize: leave slices out that declare burned-in text.
    """

    def __init__(self, output_dir: Path, source: Source, provenance: Provenance, anonymize: bool) -> None:
        self._output_dir, self._source, self._anonymize = output_dir, source, anonymize
        self._model, self._about, self._frames = provenance.stated(), dict[str, str](), list[Frame]()

    def add(
        self, prediction: Prediction, piece: Slice, unit_image: np.ndarray, values: np.ndarray | None = None
    ) -> None:
        """Take what is shown of one slice, see `invad_med.writers.report.parts.frame_of`."""
        if self._anonymize and _declares_text(piece):
            return
        self._about = self._about or about_of(piece)
        self._frames.append(frame_of(prediction, piece, unit_image, values))

    def finish(self) -> Path | None:
        """Write the part and return its path; None where there is nothing to be seen of the source.

        Raises:
            OSError: it cannot be written.
        """
        frames = tuple(sorted(self._frames, key=lambda frame: frame.index))
        return write_part(Part(frames, self._about, self._model), self._output_dir, self._source) if frames else None


@dataclass(frozen=True)
class _Run:
    """What the pages are made of.

    Args:
        output_dir: with the parts.
        studies: that are shown, the most abnormal first.
        slices: of each source, in order, by its name.
        names: what sources are called, by name.
        titles: what studies are called, by name.
    """

    output_dir: Path
    studies: Sequence[Study]
    slices: Mapping[str, Sequence[Prediction]]
    names: Mapping[str, str]
    titles: Mapping[str, str]

    def slices_of(self, study: Study) -> list[Prediction]:
        return [p for source in study.sources for p in self.slices.get(source.name, ())]

    def size_of(self, study: Study) -> int:
        """Return how many bytes the pictures of a study take."""
        return sum(_size(part_path(self.output_dir, source)) for source in study.sources)


def _declares_text(piece: Slice) -> bool:
    return isinstance(piece.origin, StoredImage) and has_burned_in_text(piece.origin.header)


def _groups(run: _Run) -> Iterator[list[Study]]:
    """Yield the studies of each page."""
    group, size = list[Study](), 0
    for study in run.studies:
        more = run.size_of(study)
        if group and (len(group) == _STUDIES or size + more > _BYTES):
            yield group
            group, size = [], 0
        group, size = [*group, study], size + more
    if group:
        yield group


def _section(run: _Run, entry: page.Entry, study: Study) -> page.Section:
    """Read the parts of a study, one at a time, and return what a page says of it."""
    slices = run.slices_of(study)
    chosen = _chosen(run, study, slices)
    about, frames = list[Part](), dict[tuple[str, int], Frame]()
    for source in study.sources:
        path = part_path(run.output_dir, source)
        if not path.is_file():
            continue
        try:
            part = read_part(path)
        except (OSError, ValueError):
            logger.warning("report.html: the pictures of one source cannot be read and are left out")
            continue
        about.append(replace(part, frames=(), model={} if about else part.model))
        frames |= {(source.name, f.index): f for f in part.frames if (source.name, f.index) in chosen}
    return page.section_of(entry, study, slices, about, run.names, frames)


def _chosen(run: _Run, study: Study, slices: Sequence[Prediction]) -> set[tuple[str, int]]:
    """Return the slices whose pictures fit on a page: source and index, the most abnormal before others."""
    sizes = {s.name: _size(part_path(run.output_dir, s)) / max(s.n_slices, 1) for s in study.sources}
    chosen, taken = set[tuple[str, int]](), 0.0
    for p in sorted(slices, key=lambda p: p.rank):
        taken += sizes.get(p.source.name, 0.0)
        if taken > _BYTES:
            break
        chosen.add((p.source.name, p.index))
    return chosen


def _summary(studies: Sequence[Study], predictions: Sequence[Prediction], unread: int, rows: int) -> list[str]:
    """Return sentences on the run: what was scored, what lies above, what was not scored."""
    scored = [p for p in predictions if p.status is Status.SCORED]
    judged = [study.abnormal for study in studies if study.abnormal is not None]
    words = [f"{page.count(len(studies), 'study', 'studies')}, {page.count(len(scored), 'slice')} scored"]
    if judged:
        words.append(f"{page.count(sum(judged), 'study', 'studies')} above the threshold of a study")
    words.append(f"{page.count(sum(bool(p.abnormal) for p in scored), 'slice')} above the threshold of a slice")
    if rows:
        left = page.count(len(predictions) - len(scored), "slice")
        cut = f", of which {_ROWS} of {rows} rows are shown" if rows > _ROWS else ""
        words.append(f"{left} not scored, {page.count(unread, 'file')} not read: see the end{cut}")
    return words


def _name(place: int) -> str:
    return f"{place:04d}.html"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _remove_pages(output_dir: Path, kept: int) -> None:
    """Remove the pages of earlier runs beyond the first ``kept``."""
    for path in (output_dir / "report").glob("*.html"):
        if path.stem.isdecimal() and int(path.stem) > kept and is_marked_text(path):
            with contextlib.suppress(OSError):
                path.unlink()


def remove_page(output_dir: Path) -> None:
    """Remove the page of an earlier run, which would contradict the table of one that writes none."""
    if is_marked_text(output_dir / PAGE):
        with contextlib.suppress(OSError):
            (output_dir / PAGE).unlink()
    _remove_pages(output_dir, 0)
