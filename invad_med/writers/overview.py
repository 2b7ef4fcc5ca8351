"""One picture of a whole run: its most conspicuous slices side by side, and what was not scored."""

from __future__ import annotations

import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageDraw

from invad_med.data.own_results import png_mark
from invad_med.data.prediction import Prediction, Status
from invad_med.data.slices import Problem
from invad_med.files import write_atomically
from invad_med.writers import canvas
from invad_med.writers.heatmap import open_heatmap
from invad_med.writers.naming import printable, slice_label, slice_path

_THUMB, _FRAME, _MARGIN, _SIZE, _LINE = 224, 4, 16, 12, 16
_TILE = _THUMB + 2 * _FRAME
_TEXT = 58  # height below a thumbnail: name, bar, numbers
_LEGEND = 90  # width of the colour bar with its words
_DISTANCE = re.compile(r" \(distance [^)]*\)")  # an image's own, which would keep like reasons apart
_REASONS = 6  # lines of reasons at most, of each kind


class Overview:
    """Gathers thumbnails while a run goes on: of every source its most abnormal slice, and a bounded number in all.

    Args:
        max_tiles: the most abnormal sources that are kept, at least 1.
    """

    def __init__(self, max_tiles: int = 24) -> None:
        if max_tiles < 1:
            raise ValueError(f"max_tiles={max_tiles} must be at least 1")
        self.max_tiles = max_tiles
        self._tiles: dict[str, tuple[Prediction, Image.Image]] = {}

    @property
    def tiles(self) -> list[tuple[Prediction, Image.Image]]:
        """What is kept, the most abnormal first; predictions without their maps."""
        return sorted(self._tiles.values(), key=lambda tile: _rank(tile[0]))

    def add(self, prediction: Prediction, heatmap_image: Image.Image) -> None:
        """Take up one scored slice.

        Args:
            prediction: of the slice.
            heatmap_image: as from `draw_heatmap`; the slice is cut out of it by ``info["panel"]``, where that is set.
        """
        if not self._has_room(prediction):
            return
        name = prediction.source.name
        if name not in self._tiles and len(self._tiles) >= self.max_tiles:
            del self._tiles[max(self._tiles, key=lambda n: _rank(self._tiles[n][0]))]
        panel = heatmap_image.info.get("panel")
        thumb = (heatmap_image.crop(panel) if panel else heatmap_image).convert("RGB")
        factor = _THUMB / max(thumb.size)
        size = (max(1, round(thumb.width * factor)), max(1, round(thumb.height * factor)))
        self._tiles[name] = replace(prediction, map=None), thumb.resize(size, Image.Resampling.BICUBIC)

    def add_drawn(self, predictions: Iterable[Prediction], output_dir: str | Path) -> None:
        """Take up the slices of one source that an earlier run drew.

        Args:
            predictions: of the source.
            output_dir: of that run.

        Raises:
            OSError, ValueError: a heatmap is not there, or no such file.
        """
        scored = [p for p in predictions if p.status is Status.SCORED]
        top = min(scored, key=_rank, default=None)
        if top is not None and self._has_room(top):
            self.add(top, open_heatmap(slice_path(Path(output_dir) / "heatmaps", top.source, top.index, ".png")))

    def _has_room(self, prediction: Prediction) -> bool:
        """Return whether a slice would be shown: a picture for it need not be made, or read, otherwise."""
        known = self._tiles.get(prediction.source.name)
        if known is None and len(self._tiles) < self.max_tiles:
            return True
        rival = known[0] if known is not None else max((tile[0] for tile in self._tiles.values()), key=_rank)
        return _rank(prediction) < _rank(rival)

    def save(self, path: str | Path, predictions: Iterable[Prediction], problems: Iterable[Problem]) -> Path:
        """Draw the overview with the tiles gathered; arguments and result as `draw_overview`."""
        return draw_overview(self.tiles, predictions, problems, path)


def draw_overview(
    tiles: Sequence[tuple[Prediction, Image.Image]],
    predictions: Iterable[Prediction],
    problems: Iterable[Problem],
    path: str | Path,
) -> Path:
    """Write one picture of a run, and return its path.

    Every tile has the slice with its map, a frame (red: score above the threshold, green: not above, grey: no
    calibrated score), the name, a bar from 0 to twice the threshold, and the numbers. Below stand the inputs without
    a model, the unfamiliar slices and the unreadable files, counted by reason; the table names them.

    Args:
        tiles: slices in the order to be shown, with pictures of at most 224 pixels, as `Overview.tiles`.
        predictions: of all slices of the run.
        problems: files that were not read.
        path: ends in ``.png``; its folder is made if need be. The file appears whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    predictions, problems = list(predictions), list(problems)
    columns = min(6, max(3, math.ceil(math.sqrt(1.5 * len(tiles)))))
    rows = math.ceil(len(tiles) / columns)
    width = _MARGIN + columns * (_TILE + _MARGIN) + _LEGEND
    heading, subheading = _headings(tiles, predictions)
    notes = _notes(predictions, problems)
    top = _MARGIN + 26 + 20 + 8
    grid = rows * (_TILE + _TEXT + _MARGIN)
    height = top + grid + _LINE * len(notes) + _MARGIN

    picture = Image.new("RGB", (width, height), canvas.BACKGROUND)
    draw = ImageDraw.Draw(picture)
    usable = width - 2 * _MARGIN
    canvas.write(draw, (_MARGIN, _MARGIN), canvas.shorten(heading, 18, usable), 18)
    canvas.write(draw, (_MARGIN, _MARGIN + 28), canvas.shorten(subheading, _SIZE, usable), _SIZE, canvas.FAINT)
    for number, (prediction, thumb) in enumerate(tiles):
        row, column = divmod(number, columns)
        _draw_tile(
            picture, _MARGIN + column * (_TILE + _MARGIN), top + row * (_TILE + _TEXT + _MARGIN), prediction, thumb
        )
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
    write_atomically(Path(path), content.getvalue())
    return Path(path)


def _rank(prediction: Prediction) -> tuple[float, float, float, str, int]:
    """Return a key that sorts the most abnormal first: p-value, score by threshold, paper score.

    p-values and multiples of the threshold compare across data sets; scores do not. Without calibration comes last.
    """
    score, threshold = prediction.score, prediction.threshold
    return (
        prediction.p_value if prediction.p_value is not None else 2.0,
        -score / (threshold or 1.0) if score is not None else math.inf,
        -prediction.paper_score if prediction.paper_score is not None else math.inf,
        prediction.source.name,
        prediction.index,
    )


def _draw_tile(picture: Image.Image, left: int, top: int, prediction: Prediction, thumb: Image.Image) -> None:
    draw = ImageDraw.Draw(picture)
    score, threshold = prediction.score, prediction.threshold
    if score is None or threshold is None:
        colour = canvas.UNKNOWN
        numbers = f"score {score:.3g}, no threshold" if score is not None else "calibrated score withheld"
    else:
        colour = canvas.ABOVE if score > threshold else canvas.BELOW
        numbers = f"{'above' if score > threshold else 'below'}: {score:.3g} / {threshold:.3g}"
    if prediction.p_value is not None:
        numbers += f"   p = {prediction.p_value:.2g}"
    draw.rectangle((left, top, left + _TILE - 1, top + _TILE - 1), fill=(0, 0, 0), outline=colour, width=_FRAME)
    picture.paste(thumb, (left + (_TILE - thumb.width) // 2, top + (_TILE - thumb.height) // 2))

    name = canvas.shorten(slice_label(prediction.source, prediction.index), _SIZE, _TILE)
    canvas.write(draw, (left, top + _TILE + 4), name, _SIZE)
    y = top + _TILE + 24
    draw.rectangle((left, y, left + _TILE - 1, y + 7), fill=(50, 50, 54))
    if score is not None and threshold is not None and threshold > 0:
        filled = round((_TILE - 1) * min(max(score / threshold / 2, 0.0), 1.0))
        draw.rectangle((left, y, left + filled, y + 7), fill=colour)
        middle = left + _TILE // 2
        draw.rectangle((middle - 1, y - 2, middle, y + 9), fill=canvas.TEXT)
    canvas.write(draw, (left, y + 12), numbers, _SIZE - 1, canvas.FAINT)


def _headings(tiles: Sequence[tuple[Prediction, Image.Image]], predictions: list[Prediction]) -> tuple[str, str]:
    scored = [p for p in predictions if p.status is Status.SCORED]
    judged = [p.score > p.threshold for p in scored if p.score is not None and p.threshold is not None]
    heading = f"invad-med: {_count(len(scored), 'slice')} scored, {sum(judged)} above threshold"
    if len(judged) < len(scored):
        heading += f", {len(scored) - len(judged)} without threshold"
    sources = len({p.source.name for p in scored})
    shown = f"{len(tiles)} of {_count(sources, 'input')} shown" if len(tiles) < sources else _count(sources, "input")
    return f"{heading}, research use only", f"{shown}, most abnormal first; of each the most abnormal slice"


def _notes(predictions: list[Prediction], problems: list[Problem]) -> list[str]:
    """Return the lines on what was not scored; unreadable files are not named, as their names are not ours."""
    unmodelled = {(p.source.name, p.reason or "no reason given") for p in predictions if p.status is Status.NO_MODEL}
    broken = [p.reason or "no reason given" for p in predictions if p.status is Status.UNREADABLE]
    blank = [p.reason or "no reason given" for p in predictions if p.status is Status.NO_CONTRAST]
    unlike = [_DISTANCE.sub("", p.reason or "") for p in predictions if p.status is Status.UNFAMILIAR]
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
    return f"{number} {noun}{'' if number == 1 else 's'}"
