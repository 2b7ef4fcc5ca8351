"""One picture of a whole run: its most conspicuous studies side by side, and what was not scored."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from invad_med.data.own_results import png_mark
from invad_med.data.prediction import Prediction, Status, without_distance
from invad_med.data.slices import Problem
from invad_med.data.study import Study
from invad_med.files import write_atomically
from invad_med.writers import canvas
from invad_med.writers.heatmap import open_heatmap
from invad_med.writers.naming import printable, slice_label, slice_path

_THUMB, _FRAME, _MARGIN, _SIZE, _LINE = 224, 4, 16, 12, 16
_TILE = _THUMB + 2 * _FRAME
_TEXT = 74  # height below a thumbnail: name, bar, numbers, counts
_LEGEND = 90  # width of the colour bar with its words
_REASONS = 6  # lines of reasons at most, of each kind


def draw_overview(
    studies: Iterable[Study],
    predictions: Iterable[Prediction],
    problems: Iterable[Problem],
    output_dir: str | Path,
    max_tiles: int = 24,
) -> Path:
    """Write ``<output_dir>/overview.png``, one picture of a run, and return its path.

    Every tile is a study, and shows the slice of it with the highest score as its heatmap in ``output_dir`` does (black
    if there is none); a frame (red: score above the threshold, green: not above, grey: no threshold), the name, a bar
    from 0 to twice the threshold, and the numbers: of the study, or of that slice where the study has no score. Below
    stand the inputs without a model, the unfamiliar slices and the unreadable files, counted by reason; the tables
    name them.

    Args:
        studies: the most abnormal first.
        predictions: of all slices of the run.
        problems: files that were not read.
        output_dir: folder of the run, made if need be. The file appears whole or not at all.
        max_tiles: studies that are shown, at least 1.

    Raises:
        ValueError: no tile.
        OSError: the file cannot be written.
    """
    if max_tiles < 1:
        raise ValueError(f"max_tiles={max_tiles} must be at least 1")
    studies, predictions, problems = list(studies), list(predictions), list(problems)
    everything = _tiles(studies, predictions)
    tiles = everything[:max_tiles]
    columns = min(6, max(3, math.ceil(math.sqrt(1.5 * len(tiles)))))
    rows = math.ceil(len(tiles) / columns)
    width = _MARGIN + columns * (_TILE + _MARGIN) + _LEGEND
    notes = _notes(predictions, problems)
    top = _MARGIN + 26 + 20 + 8
    grid = rows * (_TILE + _TEXT + _MARGIN)
    height = top + grid + _LINE * len(notes) + _MARGIN

    picture = Image.new("RGB", (width, height), canvas.BACKGROUND)
    draw = ImageDraw.Draw(picture)
    usable = width - 2 * _MARGIN
    heading, subheading = _headings(studies, predictions, len(tiles), len(everything))
    canvas.write(draw, (_MARGIN, _MARGIN), canvas.shorten(heading, 18, usable), 18)
    canvas.write(draw, (_MARGIN, _MARGIN + 28), canvas.shorten(subheading, _SIZE, usable), _SIZE, canvas.FAINT)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        left, upper = _MARGIN + column * (_TILE + _MARGIN), top + row * (_TILE + _TEXT + _MARGIN)
        _draw_tile(picture, left, upper, tile, _thumbnail(tile.first, Path(output_dir)))
    if tiles:
        left = _MARGIN + columns * (_TILE + _MARGIN)
        bar = canvas.colour_bar(_TILE, 16)
        picture.paste(bar, (left, top))
        for at, word, anchor in ((0.0, "2 ×", "lt"), (0.5, "threshold", "lm"), (1.0, "0", "ls")):
            canvas.write(draw, (left + 22, top + at * (_TILE - 1)), word, 11, anchor=anchor)
    for number, line in enumerate(notes):
        canvas.write(draw, (_MARGIN, top + grid + _LINE * number), canvas.shorten(line, _SIZE, usable), _SIZE)

    content = io.BytesIO()
    picture.save(content, format="PNG", pnginfo=png_mark())
    path = Path(output_dir) / "overview.png"
    write_atomically(path, content.getvalue())
    return path


@dataclass(frozen=True)
class _Tile:
    """A study and the slice that stands for it."""

    study: Study
    first: Prediction

    @property
    def judged(self) -> Study | Prediction:
        """Whose numbers are shown."""
        return self.first if self.study.score is None else self.study

    @property
    def words(self) -> list[str]:
        """Two lines: the numbers, and slices above their threshold against those that would be by chance."""
        study, judged = self.study, self.judged
        of = "study " if judged is study else ""
        if judged.score is None:
            numbers = "calibrated score withheld"
        elif judged.threshold is None:
            numbers = f"{of}score {judged.score:.3g}, no threshold"
        else:
            numbers = f"{of}{'above' if judged.abnormal else 'below'}: {judged.score:.3g} / {judged.threshold:.3g}"
        if judged.p_value is not None:
            numbers += f"   p = {judged.p_value:.2g}"
        if study.above is None or study.slices == 1:
            return [numbers]
        chance = f", {study.expected_above:.3g} expected" if study.expected_above is not None else ""
        in_all = f" ({study.slices} in all)" if study.slices > study.scored else ""
        return [numbers, f"{study.above} of {study.scored} slices above{chance}{in_all}"]


def _tiles(studies: Iterable[Study], predictions: Iterable[Prediction]) -> list[_Tile]:
    """Return a tile for every study of which anything was scored, in their order."""
    known = {(p.source.name, p.index): p for p in predictions}
    firsts = [(study, study.first_slice) for study in studies]
    return [_Tile(study, known[first[0].name, first[1]]) for study, first in firsts if first is not None]


def _thumbnail(prediction: Prediction, output_dir: Path) -> Image.Image:
    """Return the slice as its heatmap shows it, at most 224 pixels; black if there is none."""
    try:
        drawn = open_heatmap(slice_path(output_dir / "heatmaps", prediction.source, prediction.index, ".png"))
    except (OSError, ValueError):
        return Image.new("RGB", (_THUMB, _THUMB))
    thumb = drawn.crop(drawn.info["panel"]).convert("RGB")
    factor = _THUMB / max(thumb.size)
    size = (max(1, round(thumb.width * factor)), max(1, round(thumb.height * factor)))
    return thumb.resize(size, Image.Resampling.BICUBIC)


def _draw_tile(picture: Image.Image, left: int, top: int, tile: _Tile, thumb: Image.Image) -> None:
    draw = ImageDraw.Draw(picture)
    score, threshold, abnormal = tile.judged.score, tile.judged.threshold, tile.judged.abnormal
    colour = canvas.UNKNOWN if abnormal is None else canvas.ABOVE if abnormal else canvas.BELOW
    draw.rectangle((left, top, left + _TILE - 1, top + _TILE - 1), fill=(0, 0, 0), outline=colour, width=_FRAME)
    picture.paste(thumb, (left + (_TILE - thumb.width) // 2, top + (_TILE - thumb.height) // 2))

    name = canvas.shorten(slice_label(tile.first.source, tile.first.index), _SIZE, _TILE)
    canvas.write(draw, (left, top + _TILE + 4), name, _SIZE)
    y = top + _TILE + 24
    draw.rectangle((left, y, left + _TILE - 1, y + 7), fill=(50, 50, 54))
    if score is not None and threshold is not None and threshold > 0:
        filled = round((_TILE - 1) * min(max(score / threshold / 2, 0.0), 1.0))
        draw.rectangle((left, y, left + filled, y + 7), fill=colour)
        middle = left + _TILE // 2
        draw.rectangle((middle - 1, y - 2, middle, y + 9), fill=canvas.TEXT)
    for number, line in enumerate(tile.words):
        canvas.write(draw, (left, y + 12 + _LINE * number), line, _SIZE - 1, canvas.FAINT)


def _headings(studies: Sequence[Study], predictions: Sequence[Prediction], tiles: int, kept: int) -> tuple[str, str]:
    """Return two lines: verdicts on studies and then slices; without any verdict, slices alone."""
    scored = [p for p in predictions if p.status is Status.SCORED]
    judged = [p.abnormal for p in scored if p.abnormal is not None]
    slices = f"{_count(len(scored), 'slice')} scored, {sum(judged)} above threshold"
    if len(judged) < len(scored):
        slices += f", {len(scored) - len(judged)} without threshold"
    verdicts = [study.abnormal for study in studies if study.abnormal is not None]
    heading = f"{sum(verdicts)} of {_count(len(verdicts), 'study')} above threshold" if verdicts else slices
    shown = f"{tiles} of {_count(kept, 'study')} shown" if tiles < kept else _count(kept, "study")
    shown += ", most abnormal first; of each the slice with the highest score"
    return f"invad-med: {heading}, research use only", f"{slices}; {shown}" if verdicts else shown


def _notes(predictions: list[Prediction], problems: list[Problem]) -> list[str]:
    """Return the lines on what was not scored; unreadable files are not named, as their names are not ours."""
    unmodelled = {(p.source.name, p.reason or "no reason given") for p in predictions if p.status is Status.NO_MODEL}
    broken = [p.reason or "no reason given" for p in predictions if p.status is Status.UNREADABLE]
    blank = [p.reason or "no reason given" for p in predictions if p.status is Status.NO_CONTRAST]
    unlike = [without_distance(p.reason or "") for p in predictions if p.status is Status.UNFAMILIAR]
    reasons = [reason for _, reason in sorted(unmodelled)]
    lines = _tally(f"No model for {_count(len({n for n, _ in unmodelled}), 'input')}", reasons) if unmodelled else []
    if problems:
        lines += _tally(f"{_count(len(problems), 'file')} not read", [p.reason for p in problems])
    if unlike:
        lines += _tally(f"{_count(len(unlike), 'slice')} unfamiliar", unlike)
    if blank:
        lines += _tally(f"{_count(len(blank), 'slice')} without contrast", blank)
    if broken:
        lines += _tally(f"{_count(len(broken), 'slice')} not read", broken)
    return lines


def _tally(heading: str, reasons: list[str]) -> list[str]:
    counts = Counter(printable(reason) for reason in reasons).most_common()
    lines = [f"{heading}:", *(f"    {count} ×  {reason}" for reason, count in counts[:_REASONS])]
    rest = sum(count for _, count in counts[_REASONS:])
    return [*lines, f"    {rest} more, for other reasons"] if rest else lines


def _count(number: int, noun: str) -> str:
    several = f"{noun.removesuffix('y')}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number} {noun if number == 1 else several}"
