"""A benchmark's figures as tables, for a page and for Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from invad_med.bench.contestants import OURS
from invad_med.bench.growth import name_of
from invad_med.bench.networks import BATCHES
from invad_med.bench.record import (
    Absent,
    Bench,
    Device,
    FileRates,
    Growth,
    Machine,
    Network,
    NetworkTime,
    Spread,
    StartUp,
)


@dataclass(frozen=True)
class Table:
    """A table: title, heads of its columns, rows of as many cells, notes below it."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def to_markdown(self) -> str:
        """Return it in Markdown."""
        lines = [self.head, ("---",) * len(self.head), *self.rows]
        table = "\n".join("| " + " | ".join(row) + " |" for row in lines)
        return "\n\n".join([f"### {self.title}", *([table] if self.rows else []), *self.notes])


def tables_of(bench: Bench) -> Iterator[Table]:
    """Yield the tables of what was measured."""
    if bench.network:
        yield from network_tables(bench.network)
    if bench.startup:
        yield startup_table(bench.startup)
    if bench.growth:
        yield from growth_tables(bench.growth)
    if isinstance(bench.gpu, Device):
        yield from device_tables(bench.gpu)
    elif bench.gpu:
        yield _absent_table("On a GPU: not measured", [bench.gpu])


def to_markdown(bench: Bench) -> str:
    """Return the whole benchmark in Markdown."""
    parts = [described(bench.machine, bench.seconds), *(table.to_markdown() for table in tables_of(bench))]
    return "\n\n".join(parts) + "\n"


def described(machine: Machine, seconds: float) -> str:
    """Return one sentence on the machine and the run."""
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    flags = ", ".join(machine.flags) or "none of the flags looked for"
    return (
        f"{machine.processor}, {machine.cores} cores ({flags}); load at the beginning {machine.load:.1f}; "
        f"{machine.system}, Python {machine.python}, {versions}; commit {machine.commit or 'unknown'}; "
        f"the run took {seconds / 60:.0f} min."
    )


def network_tables(network: Network) -> Iterator[Table]:
    """Yield a table for each batch size, the fastest first, and one of what is absent."""
    head = ("method", "engine", "evaluations", "core-ms: p50 (p95)", "over ours", "wall-ms: p50 (p95)",
            "with file: core-ms", "GFLOP", "time over floor", "n")  # fmt: skip
    for batch in BATCHES:
        own = {_key(t): t for t in network.times if t.batch == batch and not t.from_file}
        files = {_key(t): t for t in network.times if t.batch == batch and t.from_file}
        fastest = min((t.core_ms.p50 for t in own.values() if t.name == OURS), default=None)
        rows = []
        for key, t in sorted(own.items(), key=lambda item: item[1].core_ms.p50):
            cells = [t.name, t.engine, "" if t.evaluations is None else str(t.evaluations), _spread(t.core_ms)]
            cells += ["" if fastest is None else f"{t.core_ms.p50 / fastest:.2f}", _spread(t.wall_ms)]
            cells += [_spread(files[key].core_ms) if key in files else ""]
            cells += ["" if t.gflop is None else f"{t.gflop:.2f}", "" if t.of_floor is None else f"{t.of_floor:.2f}"]
            rows.append((*cells, str(len(t.core_ms.samples))))
        note = (
            f"One thread, ours with the weights of {network.model}. A float32 product of two 1024 x 1024 matrices took "
            f"{_spread(network.product_ms)} core-ms: {network.product_gflops:.0f} GFLOP a core-second. Reading the PNG "
            f"and scaling it took {_spread(network.decode_ms)}."
        )
        yield Table(f"One image of 256 x 256, batch {batch}", head, tuple(rows), (note,))
    if network.absent:
        yield _absent_table("Not measured", network.absent)


def _absent_table(title: str, absent: Iterable[Absent]) -> Table:
    return Table(title, ("method", "engine", "why"), tuple((a.name, a.engine, a.why) for a in absent))


def _key(t: NetworkTime) -> tuple[str, str, int | None]:
    return t.name, t.engine, t.evaluations


def startup_table(startup: Sequence[StartUp]) -> Table:
    """Return what commands cost in fresh processes."""
    head = ("build", "command", "core-s: p50 (p95)", "wall-s: p50 (p95)", "peak memory, MB", "former over this", "n")
    rows = tuple(
        (s.build, s.what, _spread(s.core_s), _spread(s.wall_s), f"{s.peak_mb:.0f}", _ratio(s.former_over_this),
         str(len(s.core_s.samples)))
        for s in startup
    )  # fmt: skip
    return Table("Start-up, a fresh process each, one thread", head, rows)


def growth_tables(growth: Growth) -> Iterator[Table]:
    """Yield the runs, and what one more slice or file costs."""
    head = ("build", "input", "cores", "threads", "core-s", "wall-s", "peak memory, MB")
    rows = tuple(
        (r.build, f"{r.count} {name_of(r.kind)}", str(r.cores), "not set" if r.threads is None else str(r.threads),
         f"{r.core_s:.1f}", f"{r.wall_s:.1f}", f"{r.peak_mb:.0f}")
        for r in growth.runs
    )  # fmt: skip
    notes = []
    if growth.two_cores_over_one is not None:
        notes.append(f"Wall time on two cores over that on one: {growth.two_cores_over_one:.2f}.")
    yield Table("Whole runs", head, rows, tuple(notes))
    each = ("build", "from", "to", "core-ms each", "former over this")
    slopes = tuple(
        (s.build, str(s.first), f"{s.last} {name_of(s.kind)}", f"{s.core_ms:.1f}", _ratio(s.former_over_this))
        for s in growth.slopes
    )
    yield Table("One more slice or file, start-up aside", each, slopes)


def device_tables(device: Device) -> Iterator[Table]:
    """Yield what a preset and a model as it ships cost on a device, and what is absent."""
    preset, files = device.preset, device.files
    head = ("method", "engine", "evaluations", "batch", "ms a batch: p50 (p95)", "images/s", "authors' over this",
            "GFLOP an image", "time over floor", "peak memory, GB", "n")  # fmt: skip
    rows = tuple(
        (t.name, t.engine, str(t.evaluations), str(t.batch), _spread(t.ms), f"{t.images_per_s:.4g}",
         _ratio(t.authors_over_this), f"{t.gflop:.4g}", f"{t.of_floor:.2f}", _ratio(t.memory_gb),
         str(len(t.ms.samples)))
        for t in sorted(preset.times, key=lambda t: (t.batch, t.ms.p50))
    )  # fmt: skip
    size = "" if preset.parameters is None else f" of {preset.parameters / 1e6:.1f} M parameters, backbone included"
    notes = (
        f"Networks alone{size}, random weights, {preset.dtype}; images lie on the device. A {preset.dtype} product of "
        f"two {preset.side} x {preset.side} matrices took {_spread(preset.product_ms)} ms: "
        f"{preset.product_tflops:.3g} TFLOP a second. Threads of torch on the CPU: {device.threads}.",
    )
    yield Table(f"{preset.name} in {preset.dtype} on {device.name}", head, rows, notes)
    if isinstance(files, FileRates):
        yield _files_table(files, device.name)
    if absent := (*preset.absent, *(files.absent if isinstance(files, FileRates) else [files])):
        yield _absent_table(f"Not measured on {device.name}", absent)


def _files_table(files: FileRates, device: str) -> Table:
    rows = tuple(
        (files.model, r.computed_by, str(files.batch), f"{1000 / r.memory_ms.p50:.4g}", f"{1000 / r.file_ms.p50:.4g}",
         str(len(r.file_ms.samples)))
        for r in files.rates
    )  # fmt: skip
    head = ("model", "computed by", "batch", "decoded images/s", "images/s with decoding", "n")
    note = (
        f"{files.files} PNG files of 256 x 256 a sample, decoded by {files.workers} processes, which alone do "
        f"{1000 / files.decode_ms.p50:.4g} a second; to map, score and p-value in the CPU's memory, medians."
    )
    return Table(f"A model as it ships on {device}", head, rows, (note,))


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _spread(spread: Spread) -> str:
    digits = 1 if spread.p50 < 100 else 0
    return f"{spread.p50:.{digits}f} ({spread.p95:.{digits}f})"
