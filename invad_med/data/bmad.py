"""Image folders in any of BMAD's layouts, as one list of images, masks, labels and groups.

=============  =====================================================================================================
dialect        folders of a data set (``valid`` or ``val``, ``Ungood`` or ``ungood``)
=============  =====================================================================================================
``readme``     ``train/good/img``, ``{valid,test}/{good/img, Ungood/{img,anomaly_mask}}``
``config``     ``train/good``, ``{val,test}/{good,Ungood}[/img]``; or ``test/{img,label}/{good,Ungood}`` (Liver);
               or ``Train/train/good``, ``Val/{val,val_label}/...``, ``Test/{test,test_label}/...`` (RESC)
``anomalib``   ``train/good``, ``{valid,test}/{good/{img[,label]}, Ungood/{img[,label]}}``
=============  =====================================================================================================

Whatever can be read in only one way is read; anything else is refused with the paths. A mask folder is never read as
images. Counts that differ from the published ones, or an unknown name (then ``custom``), are notes, not refusals. Names
of files are compared in Unicode's composed form: a mask saved on a Mac is its image's, saved elsewhere.

What a data set shows is said by ``manifest.json`` beside its splits, ``{"modality": "brain"}``, else by its name.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from invad_med.data.bmad_folders import (
    DIALECTS,
    GROUP_COLUMNS,
    SPLITS,
    Folder,
    Manifest,
    ManifestError,
    Split,
    children,
    composed,
    find_roots,
    image_files,
    interpret,
    read_manifest,
    said_of,
    subfolders,
    unread_files,
)
from invad_med.data.identity import Identity, identify
from invad_med.data.masks import is_lossy, upright_size
from invad_med.data.masks import read_mask as read_mask  # where programs of others find it
from invad_med.data.modalities import Modality, how_to_state
from invad_med.data.published_sets import PublishedSet

LAYOUTS = "train/good[/img], {valid,val,test}/{good,Ungood}[/{img,label,anomaly_mask}] (docs/data.md lists every form)"


_COLUMNS = ", ".join(GROUP_COLUMNS)


class TreeError(ValueError):
    """A folder that cannot be read in exactly one way; the message names what was found, where, and what to do."""


@dataclass(frozen=True)
class TreeProblem:
    """Why a tree is refused, and the files or folders at fault."""

    reason: str
    paths: tuple[Path, ...]

    def __str__(self) -> str:
        shown = ", ".join(str(p) for p in self.paths[:10])
        more = f" and {len(self.paths) - 10} more" if len(self.paths) > 10 else ""
        return f"{self.reason}: {shown}{more}"


@dataclass(frozen=True)
class BmadItem:
    """One image: its mask if there is one, its split, 0 good or 1 Ungood, whom it is of and where (None if unknown).

    ``position`` is along the body, 0 to 1.
    """

    image: Path
    mask: Path | None
    split: Split
    label: Literal[0, 1]
    group: str | None
    position: float | None = None


@dataclass(frozen=True)
class BmadDataset:
    """One data set on disk.

    Args:
        name: of the published set or modality that its manifest or folder names, or ``custom``.
        root: folder that holds the splits.
        dialect: ``readme``, ``config`` or ``anomalib``; ``unknown`` where there are problems with the layout.
        items: images in the order of split, class and name.
        problems: why the set is refused; empty for one that `read_tree` returns.
        notes: what a user should know, but no reason to refuse.
        published: what was published of the set it is named as, or None.
        modality: what its images show, or None where nothing says so.
    """

    name: str
    root: Path
    dialect: str
    items: tuple[BmadItem, ...]
    problems: tuple[TreeProblem, ...] = ()
    notes: tuple[str, ...] = ()
    published: PublishedSet | None = None
    modality: Modality | None = None

    @property
    def splits(self) -> dict[str, dict[str, dict[str, int]]]:
        """Number of images and masks: split -> class -> ``{"images": n, "masks": n}``."""
        found: dict[str, dict[str, dict[str, int]]] = {}
        for item in self.items:
            classes = found.setdefault(item.split, {})
            counts = classes.setdefault("Ungood" if item.label else "good", {"images": 0, "masks": 0})
            counts["images"] += 1
            counts["masks"] += item.mask is not None
        return found

    def refusal(self) -> str:
        """Return why the tree is refused, or nothing; the files at fault are named on standard error alone.

        Their names may be patients', and reasons travel into reports and stores.
        """
        for problem in self.problems:
            print(problem, file=sys.stderr)
        places = [f"{len(p.paths)} path{'s'[: len(p.paths) != 1]}" for p in self.problems]
        return "; ".join(f"{problem.reason} ({n})" for problem, n in zip(self.problems, places, strict=True))

    def is_as_published(self, split: str) -> bool:
        """Whether a split holds as many images of each class as were published; a name alone proves nothing."""
        counts = {kind: n["images"] for kind, n in self.splits.get(split, {}).items()}
        return self.published is not None and bool(counts) and counts == self.published.counts.get(split)


def read_tree(root: Path | str) -> list[BmadDataset]:
    """Read every data set below a folder.

    Args:
        root: a data set (the folder that holds ``train`` and ``test``), or a folder of several.

    Raises:
        TreeError: there is none, or one of them cannot be read in exactly one way; paths are named.
    """
    datasets = inspect_tree(root)
    problems = [str(problem) for dataset in datasets for problem in dataset.problems]
    if problems:
        raise TreeError("\n".join(problems) + f"\nLayouts accepted: {LAYOUTS}")
    return datasets


def inspect_tree(root: Path | str) -> list[BmadDataset]:
    """Read as `read_tree` does, but put what would be refused into ``problems``."""
    root = Path(root)
    if not root.is_dir():
        return [BmadDataset("custom", root, "unknown", (), (TreeProblem("not a folder", (root,)),))]
    roots = list(find_roots(root))
    if not roots:
        reason = "neither train nor test folder found"
        return [BmadDataset("custom", root, "unknown", (), (TreeProblem(reason, (root,)),))]
    datasets = [_Reader(place, identify(place, root)).read() for place in roots]
    for name in sorted({d.name for d in datasets} - {"custom"}):
        same = [d for d in datasets if d.name == name]
        if len(same) > 1:
            twice = TreeProblem(f"{name} is there more than once; name the one meant", tuple(d.root for d in same))
            datasets = [replace(d, problems=(*d.problems, twice)) if d is same[0] else d for d in datasets]
    return datasets


def read_dataset(root: Path | str) -> BmadDataset:
    """Read the one data set below a folder.

    Raises:
        TreeError: as `read_tree`; not exactly one data set.
    """
    datasets = read_tree(root)
    if len(datasets) != 1:
        raise TreeError(f"{root} holds {len(datasets)} data sets, name one: {', '.join(str(d.root) for d in datasets)}")
    return datasets[0]


def datalist(root: Path | str, split: str, good_only: bool = False) -> list[dict[str, Any]]:
    """List one split of one data set for MONAI.

    Args:
        root: folder of exactly one data set.
        split: ``train``, ``valid`` (or ``val``), ``test``. A missing valid split gives an empty list.
        good_only: leave Ungood images out.

    Returns:
        Dictionaries of ``image`` (path), ``label`` (0 good, 1 Ungood), ``mask`` (path, or "") and ``group`` (patient
        or other unit that must not be in two splits, or ""), in order of class and name.

    Raises:
        TreeError: as `read_tree`; not exactly one data set; no such split.
    """
    if split not in SPLITS:
        raise TreeError(f"split must be train, valid or test, not {split!r}")
    dataset = read_dataset(root)
    wanted = SPLITS[split]
    items = [item for item in dataset.items if item.split == wanted]
    if not items and wanted != "valid":
        raise TreeError(f"{dataset.root} has no image in its {wanted} split")
    return [
        {
            "image": str(item.image),
            "label": item.label,
            "mask": str(item.mask) if item.mask else "",
            "group": item.group or "",
        }
        for item in items
        if not (good_only and item.label)
    ]


@dataclass
class _Reader:
    """Reads one data set: folders, then pairs, then what to note."""

    root: Path
    identity: Identity
    problems: list[TreeProblem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    grouped: bool = False  # whether a manifest names patients

    def read(self) -> BmadDataset:
        folders = self._folders()
        dialect = self._dialect(folders)
        items: list[BmadItem] = []
        has_masks = any(meaning.mask for _, meaning in folders)
        manifest = self._manifest()
        splits: tuple[Split, ...] = ("train", "valid", "test")
        classes: tuple[Literal[0, 1], ...] = (0, 1)
        for split in splits:
            for label in classes:
                here = [(p, m) for p, m in folders if m.split == split and m.label == label]
                images = self._only_one([p for p, m in here if not m.mask], "image")
                masks = self._only_one([p for p, m in here if m.mask], "mask")
                items += self._pair(images, masks, split, label, has_masks, manifest)
        if not any(item.split in ("train", "test") for item in items):
            self._refuse("neither train nor test images found", self.root)
        if self.identity.problem:
            self._refuse(self.identity.problem, self.root / "manifest.json")
        it = self.identity
        dataset = BmadDataset(it.name, self.root, dialect, tuple(items), published=it.published, modality=it.modality)
        self._note_counts(dataset, has_masks)
        return replace(dataset, problems=tuple(self.problems), notes=tuple(self.notes))

    def _refuse(self, reason: str, *paths: Path) -> None:
        self.problems.append(TreeProblem(reason, paths))

    def _manifest(self) -> Manifest:
        path = self.root / "manifest.csv"
        try:
            manifest = read_manifest(self.root)
        except ManifestError as error:
            self._refuse(str(error), path)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            self._refuse(f"cannot be read ({getattr(error, 'strerror', '') or type(error).__name__})", path)
        else:
            self.grouped = manifest is not None
            if manifest is None and path.is_file():
                self.notes.append(f"manifest.csv names no patients: it has no column name, or none of {_COLUMNS}")
            if manifest is not None and manifest.unplaced:
                self.notes.append(
                    f"manifest.csv gives {manifest.unplaced} images a position that is no number from 0 to 1: taken as "
                    "unknown"
                )
            return manifest or Manifest()
        return Manifest()

    def _folders(self) -> list[tuple[Path, Folder]]:
        """Folders that hold files or could, with their meaning; empty mask folders count, they promise masks."""
        found: list[tuple[Path, Folder]] = []
        by_split: dict[str, list[Path]] = defaultdict(list)
        for top in children(self.root):
            if not top.is_dir() or top.name.casefold() not in SPLITS:
                continue
            by_split[SPLITS[top.name.casefold()]].append(top)
            for folder in [top, *subfolders(top)]:
                meaning = interpret(folder.relative_to(self.root).parts)
                has_files = bool(image_files(folder))
                if meaning is None and has_files:
                    self._refuse("images in a folder that no layout has", folder)
                elif meaning is not None and (has_files or meaning.mask):
                    found.append((folder, meaning))
                if unread := unread_files(folder):
                    self._refuse("images of a kind that is not read here, convert them to PNG", *unread)
        for split, tops in by_split.items():
            if len(tops) > 1:
                self._refuse(f"more than one {split} folder", *tops)
        return found

    def _dialect(self, folders: list[tuple[Path, Folder]]) -> str:
        possible = DIALECTS
        for _, meaning in folders:
            possible &= meaning.dialects
        if not folders:
            return "unknown"
        if not possible:
            kinds = {m.dialects: p for p, m in folders if m.dialects != DIALECTS}
            self._refuse("two dialects at once", *sorted(kinds.values()))
            return "unknown"
        names_val = any(p.name.casefold() == "val" for p in children(self.root))
        if "config" in possible and ("anomalib" not in possible or names_val):
            return "config"
        return "anomalib" if "anomalib" in possible else "readme"

    def _only_one(self, folders: list[Path], kind: str) -> list[Path]:
        if len(folders) > 1:
            self._refuse(f"more than one {kind} folder for one class of one split", *folders)
        return [path for folder in folders[:1] for path in image_files(folder)]

    def _pair(
        self,
        images: list[Path],
        masks: list[Path],
        split: Any,
        label: Any,
        has_masks: bool,
        manifest: Manifest,
    ) -> list[BmadItem]:
        by_stem = {composed(mask.stem): mask for mask in masks}
        for files in (images, masks):
            stems: dict[str, list[Path]] = defaultdict(list)
            for path in files:
                stems[composed(path.stem)].append(path)
            for same in stems.values():
                if len(same) > 1:
                    self._refuse("one name, several files", *same)
        stray = sorted(set(by_stem) - {composed(image.stem) for image in images})
        if stray:
            self._refuse("mask without image", *(by_stem[stem] for stem in stray))
        missing = [image for image in images if composed(image.stem) not in by_stem]
        if missing and ((label and has_masks and split != "train") or (masks and label == 0)):
            self._refuse("image without its mask", *missing)
        lossy = []
        items = []
        for image in images:
            stem = composed(image.stem)
            mask = by_stem.get(stem)
            group = said_of(manifest.groups, split, label, stem)
            position = said_of(manifest.positions, split, label, stem)
            items.append(BmadItem(image, mask, split, label, group, position))
            if mask is None:
                continue
            size, (mask_size, is_jpeg) = _header(image)[0], _header(mask)
            if size and mask_size and size != mask_size:
                self._refuse(f"mask of another size ({_by(mask_size)}) than its image ({_by(size)})", image, mask)
            if is_jpeg:
                lossy.append(mask)
        if lossy:
            self.notes.append(
                f"{len(lossy)} masks of {split} are JPEG, which is lossy: anomalous is what reaches half of the range, "
                "edges may be off"
            )
        return items

    def _note_counts(self, dataset: BmadDataset, has_masks: bool) -> None:
        published = dataset.published
        for split, classes in (published.counts if published else {}).items():
            for kind, count in classes.items():
                found = dataset.splits.get(split, {}).get(kind, {"images": 0})["images"]
                if found != count:
                    self.notes.append(f"{split} {kind}: {found} images, published: {count}")
        if dataset.modality is None:
            self.notes.append(f"a name that is not in the table of data sets: taken as custom; {how_to_state()}")
        elif published and published.pixel_masks and not has_masks:
            self.notes.append("no masks, although published with them: pixel metrics cannot be computed")
        elif published and has_masks and not published.pixel_masks:
            self.notes.append("masks, although published without them")
        anomalous = sum(item.split == "train" and item.label == 1 for item in dataset.items)
        if anomalous:
            self.notes.append(f"train holds {anomalous} Ungood images: train on good_only")
        unnamed = [item for item in dataset.items if item.group is None]
        if self.grouped and unnamed:
            self.notes.append(
                f"manifest.csv names no patient of {len(unnamed)} images: each counts as a patient of its own, so that "
                "images of one may be learnt from and measured on; complete it, or check its columns split and class"
            )
        where: dict[str, set[str]] = defaultdict(set)
        for item in dataset.items:
            if item.group is not None:
                where[item.group].add(item.split)
        shared = sorted(group for group, splits in where.items() if len(splits) > 1)
        if shared:
            self.notes.append(f"{len(shared)} groups (patients) are in more than one split")


def _header(path: Path) -> tuple[tuple[int, int] | None, bool]:
    """(width, height), and whether it is lossy; None if unreadable, which is for `python -m data_prep check` to say."""
    try:
        with Image.open(path) as image:
            return upright_size(image), is_lossy(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None, False


def _by(size: tuple[int, int]) -> str:
    return "x".join(str(n) for n in size)
