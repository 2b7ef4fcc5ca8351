"""Designs compared: figures averaged over seeds, folds and kinds of data, and their paired differences, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from invad_med.evaluation.designs import Measured, Quantity, Sample, kind_of
from invad_med.evaluation.tables import verdict
from invad_med.metrics.bootstrap import Figure, interval, paired_difference

MEAN = "mean of kinds"
TITLES = {
    Quantity.VALID_AUROC: "Image AUROC on valid, which decides",
    Quantity.VALID_PIXEL_AP: "Pixel AP on valid",
    Quantity.TEST_AUROC: "Image AUROC on test",
    Quantity.TEST_PIXEL_AP: "Pixel AP on test",
    Quantity.TEST_SENSITIVITY: "Share of test's abnormal images above the 5 % threshold",
    Quantity.TEST_FALSE_POSITIVES: "Share of test's normal images above the 5 % threshold",
}
_DIGITS = 9  # of a figure that count
_LESS_IS_BETTER = {Quantity.TEST_FALSE_POSITIVES}
_COLUMNS = [
    "design", "kind", "figure", "value", "low", "high", "difference", "difference_low", "difference_high", "verdict",
]  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One training: of a design, on a data set, with a seed."""

    design: str
    dataset: str
    seed: int

    @property
    def kind(self) -> str:
        """The kind of data."""
        return kind_of(self.dataset)

    def __str__(self) -> str:
        return f"{self.design} on {self.dataset}, seed {self.seed}"


def average(samples: Sequence[Sample], every: bool = False) -> Sample:
    """Return the mean of figures, replicate by replicate.

    Args:
        samples: at least one, of one number of resamples.
        every: a replicate exists only where all of theirs do; False: where any does, as the mean of those.
    """
    replicates = np.stack([sample.replicates for sample in samples])
    exists = np.isfinite(replicates)
    count = exists.sum(0)
    total = np.where(exists, replicates, 0.0).sum(0)
    enough = count == len(samples) if every else count > 0
    mean = np.where(enough, total / np.maximum(count, 1), np.nan)
    return Sample(float(np.mean([sample.value for sample in samples])), mean)


def by_kind(
    measured: Mapping[Run, Measured], designs: Sequence[str], quantity: Quantity
) -> dict[str, dict[str, Sample]]:
    """Return a figure by kind and design: the mean over the folds of the mean over the seeds.

    A design that lacks a training of a kind which another one has is not there in that kind.
    """
    runs = [run for run, result in measured.items() if quantity in result.samples]
    table: dict[str, dict[str, Sample]] = {}
    for kind in sorted({run.kind for run in runs}):
        wanted = sorted({(run.dataset, run.seed) for run in runs if run.kind == kind})
        table[kind] = {}
        for design in designs:
            folds: dict[str, list[Sample]] = {}
            for dataset, seed in wanted:
                result = measured.get(Run(design, dataset, seed))
                if result is not None and quantity in result.samples:
                    folds.setdefault(dataset, []).append(result.samples[quantity])
            if sum(map(len, folds.values())) == len(wanted):
                table[kind][design] = average([average(seeds) for seeds in folds.values()])
    return table


def mean_of_kinds(kinds: Mapping[str, Mapping[str, Sample]], designs: Sequence[str]) -> dict[str, Sample]:
    """Return the mean over the kinds that every design has, each with the same weight; empty if there is none."""
    common = [kinds[kind] for kind in kinds if all(design in kinds[kind] for design in designs)]
    return {design: average([kind[design] for kind in common], every=True) for design in designs} if common else {}


def difference(sample: Sample, first: Sample) -> Figure:
    """Return a figure minus the first design's, with its paired interval."""
    # The same figure summed in another order differs in its last digits, which must not exclude zero.
    a, b = (Figure(round(s.value, _DIGITS), None, None) for s in (sample, first))
    return paired_difference(a, b, sample.replicates.round(_DIGITS), first.replicates.round(_DIGITS))


def quantities_of(measured: Mapping[Run, Measured], test: bool) -> list[Quantity]:
    """Return the figures that some model has, in order; those of ``test`` only where they are asked for."""
    there = {q for result in measured.values() for q in result.samples}
    return [q for q in Quantity if q in there and (test or q.of_split != "test")]


def table_of(measured: Mapping[Run, Measured], designs: Sequence[str], test: bool) -> pd.DataFrame:
    """Return one row per figure, kind and design, `MEAN` the last kind; a first design has no difference.

    Args:
        measured: what there is.
        designs: names, the one that others are compared with first.
        test: whether figures of ``test`` are shown.
    """
    rows: list[list[Any]] = []
    for quantity in quantities_of(measured, test):
        kinds = by_kind(measured, designs, quantity)
        for kind, samples in {**kinds, MEAN: mean_of_kinds(kinds, designs)}.items():
            for design, sample in samples.items():
                row = [design, kind, str(quantity), sample.value, *(interval(sample.replicates) or (None, None))]
                if design == designs[0] or designs[0] not in samples:
                    rows.append([*row, None, None, None, ""])
                    continue
                apart = difference(sample, samples[designs[0]])
                rows.append([*row, apart.value, apart.low, apart.high, _verdict(quantity, apart)])
    return pd.DataFrame(rows, columns=_COLUMNS).astype(dict.fromkeys(_COLUMNS[3:9], float))


def report(measured: Mapping[Run, Measured], designs: Mapping[str, str], common: str, test: bool) -> str:
    """Return the tables in Markdown, with what was compared, what it is worth, and what came out.

    Args:
        measured: what there is.
        designs: name -> its keys as given, the one that others are compared with first.
        common: keys of all of them.
        test: whether figures of ``test`` are shown.
    """
    names, table = list(designs), table_of(measured, list(designs), test)
    seeds = sorted({run.seed for run in measured})
    lines = ["# Designs", "", f"Keys of all: {f'`{common}`' if common else 'the defaults'}."]
    lines += [f"- {name}: {f'`{keys}`' if keys else 'nothing else'}" for name, keys in designs.items()]
    lines += [
        "",
        f"Seeds {', '.join(map(str, seeds))}. A cell is a design's value and its difference from {names[0]} with the "
        "paired 95 % interval over patients; a kind of data is the mean of its folds, and every kind counts the same.",
    ]
    for quantity in quantities_of(measured, test):
        lines += ["", f"## {TITLES[quantity]}", ""]
        if quantity.of_split == "test":
            lines += ["For the reader: it chooses nothing.", ""]
        lines += _markdown(table[table["figure"] == str(quantity)], names)
    return "\n".join([*lines, "", *_decided(table, names), *_by_seed(measured, names), *_notes(measured)]) + "\n"


def _markdown(table: pd.DataFrame, names: Sequence[str]) -> list[str]:
    lines = ["| kind | " + " | ".join(names) + " |", "|" + "---|" * (1 + len(names))]
    for kind in dict.fromkeys(table["kind"]):
        rows = {row.design: row for row in table[table["kind"] == kind].itertuples()}
        cells = [_cell(rows[name]) if name in rows else "-" for name in names]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return lines


def _cell(row: Any) -> str:
    if np.isnan(row.difference):
        return f"{row.value:.3f}"
    bounds = "" if np.isnan(row.difference_low) else f" [{row.difference_low:+.3f}, {row.difference_high:+.3f}]"
    shown = f" {row.verdict}" if row.kind == MEAN or row.verdict in ("better", "worse") else ""
    return f"{row.value:.3f}, {row.difference:+.3f}{bounds}{shown}"


def _decided(table: pd.DataFrame, names: Sequence[str]) -> list[str]:
    pooled = table[(table["figure"] == str(Quantity.VALID_AUROC)) & (table["kind"] == MEAN)]
    verdicts = [f"{row.design} is {row.verdict}" for row in pooled.itertuples() if row.design != names[0]]
    if pooled.empty:
        return ["Nothing is decided: there is no kind of data that every design has.", ""]
    return [f"By the mean of kinds on valid, compared with {names[0]}: {'; '.join(verdicts)}.", ""] if verdicts else []


def _by_seed(measured: Mapping[Run, Measured], names: Sequence[str]) -> list[str]:
    """Say what each seed alone makes of the mean that decides: the interval over patients does not hold that spread."""
    apart = []
    for seed in sorted({run.seed for run in measured}):
        alone = {run: result for run, result in measured.items() if run.seed == seed}
        pooled = mean_of_kinds(by_kind(alone, names, Quantity.VALID_AUROC), names)
        if pooled:
            first = pooled[names[0]].value
            shown = ", ".join(f"{name} {pooled[name].value - first:+.3f}" for name in names[1:])
            apart.append(f"seed {seed}: {shown}")
    return (
        [f"By seed, of which the intervals say nothing: {'; '.join(apart)}.", ""] if len(names) > 1 < len(apart) else []
    )


def _notes(measured: Mapping[Run, Measured]) -> list[str]:
    """Say on how many patients each kind's figures of valid rest, and where designs were measured on other images."""
    fewest: dict[str, list[tuple[int, int]]] = {}
    images: dict[tuple[str, int], set[str]] = {}
    for run, result in measured.items():
        fewest.setdefault(run.kind, []).append(result.units)
        images.setdefault((run.dataset, run.seed), set()).add(result.images)
    counts = [f"{kind} {min(n for n, _ in c)} and {min(a for _, a in c)}" for kind, c in sorted(fewest.items())]
    lines = [f"Patients (or images of no known one) behind valid, normal and abnormal, at least: {', '.join(counts)}."]
    other = [f"{dataset}, seed {seed}" for (dataset, seed), found in sorted(images.items()) if len(found) > 1]
    if other:
        lines += [
            "",
            f"The designs held out different images of {'; '.join(other)}: what differs is also the images.",
        ]
    return lines


def _verdict(quantity: Quantity, apart: Figure) -> str:
    if quantity in _LESS_IS_BETTER and apart.low is not None and apart.high is not None:
        return verdict(Figure(-apart.value, -apart.high, -apart.low))
    return verdict(apart)
