"""One model on one data set, measured in many ways: encodings walked, scored and judged, kept as files.

Images are encoded once for all ways. Whatever is fitted or chosen for a way is fitted on normal images of ``train`` and
chosen on ``valid``; ``test`` is measured. All ways are judged by the same draws of patients, so that differences are
paired.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invad_med.data.bmad import BmadDataset
from invad_med.data.modalities import Modality
from invad_med.detection import AnomalyDetector
from invad_med.diffusion import Walked
from invad_med.evaluation.ablation import IN_FEATURES, NORM, OWN_RULE, PAPER, Kind, Way
from invad_med.evaluation.designs import Draws, Sample
from invad_med.evaluation.judge import judge
from invad_med.evaluation.method import Scored
from invad_med.evaluation.methods.reconstruction import Reconstruction
from invad_med.evaluation.truth import Truth
from invad_med.features.cached import cached_features, image_features
from invad_med.features.endpoints import walk_to_noise
from invad_med.files import write_atomically
from invad_med.inferers import ReconstructionInferer
from invad_med.metrics.image import auroc
from invad_med.scoring.calibration import Calibration
from invad_med.scoring.scores import anomaly_map, paper_score

LEVELS: tuple[int, ...] = tuple(Reconstruction.settings.values())  # of 1000
CHOICE_STEPS = 10  # at most, of the reconstructions that a level is chosen by
FIGURES = ("image_auroc", "pixel_ap")
_FORMAT = 2  # of the file; another one is measured anew
_BATCH = 16
_TIMED = 4  # images that are encoded to time it


@dataclass(frozen=True)
class Images:
    """Which images of a data set an ablation looks at.

    Args:
        train: normal ones that the model learnt from, to calibrate with.
        normal: normal ones that it did not learn from, and
        abnormal: abnormal ones of ``valid``: to choose by.
        test: to measure on.
    """

    train: tuple[Path, ...]
    normal: tuple[Path, ...]
    abnormal: tuple[Path, ...]
    test: tuple[Path, ...]


def draw(images: Sequence[Path], unit: Mapping[Path, str], label: Mapping[Path, int], most: int | None) -> list[Path]:
    """Return so many images, spread over patients: one of each, then a second of each, and so on.

    Normal and abnormal images are drawn apart, each as many as their share and at least one. Patients come in an order
    that their names and nothing else decides, those first whose other images are not drawn; of each the images lie
    evenly among its own.

    Args:
        images: to draw from.
        unit: whom each is of.
        label: 1 where it is abnormal.
        most: None: all.
    """
    if most is None or len(images) <= most:
        return list(images)
    parts = {kind: [image for image in images if label[image] == kind] for kind in (0, 1)}
    least, rest = (bool(parts[kind]) for kind in (1, 0))
    abnormal = min(max(round(most * len(parts[1]) / len(images)), least), most - rest)
    taken: set[Path] = set()
    for kind, room in ((0, most - abnormal), (1, abnormal)):
        of: dict[str, list[Path]] = {}
        for image in parts[kind]:
            of.setdefault(unit[image], []).append(image)
        order = sorted(of, key=lambda name: hashlib.sha256(f"ablation {name}".encode()).digest())
        drawn = {unit[image] for image in taken}
        first = sorted(order, key=lambda name: name in drawn)
        later = (name for turn in range(1, len(parts[kind])) for name in order if turn < len(of[name]))
        for name, few in Counter(islice(chain(first, later), room)).items():
            own = of[name]
            taken.update(own[(2 * i + 1) * len(own) // (2 * few)] for i in range(few))
    return [image for image in images if image in taken]


@dataclass(frozen=True)
class Reached:
    """What a way reaches by one score.

    Args:
        evaluations: of the network, an image.
        walk_ms: milliseconds of a core (of the clock on a GPU) from an encoding to what is scored, batches of 16; in
            features with the decoding and the features of both images.
        level: of a reconstruction, chosen on ``valid``; None of other ways.
        samples: `FIGURES` and their replicates; one that does not exist is not there.
    """

    evaluations: int
    walk_ms: float
    level: int | None
    samples: Mapping[str, Sample] = field(repr=False)


@dataclass(frozen=True)
class WayMeasured:
    """What a way reaches, with what says whether it is to be measured again.

    Args:
        inputs: digest of model, images and settings.
        encode_ms: milliseconds of a core (of the clock on a GPU) from a file to its encoding.
        images: how many of ``test`` were measured.
        reached: by score.
    """

    inputs: str
    encode_ms: float
    images: int
    reached: Mapping[str, Reached]

    def write(self, path: Path) -> None:
        """Write all of it to one file, whole or not at all."""
        arrays = {
            f"{score}/{name}": np.append(sample.value, sample.replicates)
            for score, reached in self.reached.items()
            for name, sample in reached.samples.items()
        }
        plain = {
            s: {"evaluations": r.evaluations, "walk_ms": r.walk_ms, "level": r.level} for s, r in self.reached.items()
        }
        about = {"format": _FORMAT, "inputs": self.inputs, "encode_ms": self.encode_ms, "images": self.images}
        buffer = io.BytesIO()
        text = np.array(json.dumps(about | {"reached": plain}))
        np.savez_compressed(buffer, about=text, **arrays)  # type: ignore[arg-type]
        write_atomically(path, buffer.getvalue())


def read_way(path: Path) -> WayMeasured | None:
    """Return what `WayMeasured.write` wrote, or None: there is no such file, it is damaged or of another version."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            if about.pop("format") != _FORMAT:
                return None
            reached = {}
            for score, plain in about.pop("reached").items():
                keys = [name for name in FIGURES if f"{score}/{name}" in stored.files]
                values = {name: stored[f"{score}/{name}"] for name in keys}
                reached[score] = Reached(**plain, samples={n: Sample(float(v[0]), v[1:]) for n, v in values.items()})
            return WayMeasured(**about, reached=reached)
    except Exception:  # a damaged archive raises whatever zip, zlib, NumPy or JSON raise: it is made anew
        return None


class Subject:
    """A model and the images that it is measured on.

    Args:
        detector: calibrated, on the device to compute on.
        dataset: which the images are of.
        modality: how they are prepared.
        images: of the data set.
        unit: whom each image is of.
        kind: of data, by which its draws are independent of others'.
        cache_dir: folder of features.
        looker: from an encoding of the model's to features (B, C', h', w') of its image, in which reconstructions are
            compared too; None: in the model's own space alone.

    Raises:
        ValueError: images of one class only, in ``test`` or to choose by, or none to calibrate with.
    """

    def __init__(
        self,
        detector: AnomalyDetector,
        dataset: BmadDataset,
        modality: Modality,
        images: Images,
        unit: Mapping[Path, str],
        kind: str,
        cache_dir: str | Path | None,
        looker: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        item = {item.image: item for item in dataset.items}
        labels = np.array([item[path].label for path in images.test])
        if len(set(labels.tolist())) < 2:
            raise ValueError(f"the {len(labels)} images of test are of one class only: there is no AUROC to compare")
        if not (images.train and images.normal and images.abnormal):
            raise ValueError(
                f"{len(images.train)} normal images to calibrate with, {len(images.normal)} normal and "
                f"{len(images.abnormal)} abnormal ones to choose by: each must be at least one"
            )
        self.detector, self.modality, self.images, self.cache_dir = detector, modality, images, cache_dir
        self.looker = looker
        draws = Draws.of([unit[path] for path in images.test], f"{kind} ablation")
        groups, self._weights = draws.among([unit[path] for path in images.test])
        self.patients, self.labels = len(draws.names), labels
        self._truth = Truth(
            dataset.root,
            modality,
            images.test,
            tuple(item[path].mask for path in images.test),
            labels,
            groups,
            False,
            np.full(len(labels), np.nan),
        )
        self._levels: dict[int, dict[str, int]] = {}

    @cached_property
    def _raw(self) -> dict[str, Tensor]:
        parts = asdict(self.images)
        every = list(dict.fromkeys(path for part in parts.values() for path in part))
        raw = cached_features(self.detector.host, every, self.modality, self.cache_dir, progress=False)
        place = {path: i for i, path in enumerate(every)}
        return {name: raw[[place[path] for path in part]] for name, part in parts.items()}

    @cached_property
    @torch.no_grad()
    def encode_ms(self) -> float:
        """Milliseconds of a core (of the clock on a GPU) from a file to its encoding, the mean of a few."""
        paths = self.images.test[:_TIMED]
        image_features(self.detector.host, paths[0], self.modality)
        start = self._clock()
        for path in paths:
            image_features(self.detector.host, path, self.modality)
        return 1000.0 * (self._clock() - start) / len(paths)

    @property
    def judging(self) -> float:
        """Roughly the seconds of a core that judging a score takes: with masks every pixel is ranked."""
        return 1.0 + 0.02 * len(self.images.test) if self._truth.has_masks else 0.1

    @cached_property
    def seconds_per_evaluation(self) -> float:
        """Seconds of a core (of the clock on a GPU) that an evaluation of an image takes, in a batch."""
        host = self.detector.host
        raw = torch.zeros(_BATCH, host.raw_channels, host.grid_size, host.grid_size, device=host.device)
        return seconds_per_evaluation(host.predictor(raw), host.normalise(raw))

    def why_not(self, way: Way, score: str) -> str | None:
        """Return why a score of a way has no meaning for this model, or None if it has."""
        host = self.detector.host
        if score == PAPER and way.kind not in (Kind.FEATURES, Kind.RECONSTRUCTION) and not host.gaussian:
            return "the model was trained with other than Gaussian noise: its end points have no likelihood"
        if score == IN_FEATURES and self.looker is None:
            return "needs the model of --ckpt_path or --models_dir to look with, and a way back to pixels"
        if way.kind == Kind.RECONSTRUCTION:
            return None
        return host.why_not(way.timesteps(self.detector.timesteps, len(host.alphas_cumprod)))

    def remember(self, way: Way, measured: WayMeasured) -> None:
        """Take up the levels that an earlier run has chosen."""
        if way.kind == Kind.RECONSTRUCTION and way.number <= CHOICE_STEPS:
            known = {score: reached.level for score, reached in measured.reached.items() if reached.level is not None}
            self._levels.setdefault(way.number, {}).update(known)

    def evaluations(self, way: Way, scores: Sequence[str], chosen: Collection[int] = ()) -> int:
        """Return how many evaluations measuring a way takes, at most.

        Args:
            way, scores: to measure.
            chosen: numbers of steps whose levels are chosen by then.
        """
        parts = {name: len(part) for name, part in asdict(self.images).items()}
        if way.kind != Kind.RECONSTRUCTION:
            return self._evaluations(way, None) * (parts["train"] + parts["test"])
        choice = parts["train"] + parts["normal"] + parts["abnormal"]
        steps = min(way.number, CHOICE_STEPS)
        walked = max(self._evaluations(way, level) for level in self._tried) * (parts["train"] + parts["test"])
        known = steps in self._levels or steps in chosen
        return walked * len(scores) + (not known) * len(LEVELS) * steps * choice

    def measure(self, way: Way, scores: Sequence[str], inputs: str) -> WayMeasured:
        """Return what a way reaches by some scores.

        Raises:
            ValueError: it makes scores that are no numbers.
            ReadError: an image cannot be read.
        """
        levels = self._chosen(min(way.number, CHOICE_STEPS), scores) if way.kind == Kind.RECONSTRUCTION else {}
        ends: dict[int | None, tuple[Tensor, Tensor, float]] = {}
        reached = {}
        for score in scores:
            level = levels.get(score)
            if level not in ends:
                train, start = self._end(way, level, "train"), self._clock()
                test = self._end(way, level, "test")
                ends[level] = train, test, 1000.0 * (self._clock() - start) / len(test)
            train, test, walk_ms = ends[level]
            start = self._clock()
            seen = self._seen(score, test, ("test",))
            seen_ms = 1000.0 * (self._clock() - start) / len(test)
            values, maps = self._scored(score, train, seen, ("test",))
            if not (np.isfinite(values).all() and np.isfinite(maps).all()):
                raise ValueError("the model makes scores that are no numbers: its training diverged")
            judged = judge(self._truth, Scored(values, maps), self._weights)
            nothing = np.full(len(self._weights), np.nan)  # one patient says nothing of how patients differ
            found = {
                name: Sample(judged.values[name], judged.replicates[name] if self.patients > 1 else nothing)
                for name in FIGURES
                if name in judged.values
            }
            reached[score] = Reached(self._evaluations(way, level), walk_ms + seen_ms, level, found)
        return WayMeasured(inputs, self.encode_ms, len(self._truth.images), reached)

    @property
    def _tried(self) -> list[int]:
        """Levels on this model's schedule."""
        return [max(1, round(level * len(self.detector.host.alphas_cumprod) / 1000)) for level in LEVELS]

    def _evaluations(self, way: Way, level: int | None) -> int:
        if level is not None:
            return min(way.number, level)
        return len(way.timesteps(self.detector.timesteps, len(self.detector.host.alphas_cumprod)))

    def _chosen(self, steps: int, scores: Sequence[str]) -> dict[str, int]:
        """Return the level of the highest image AUROC on ``valid`` by score, of reconstructions of so many steps."""
        known = self._levels.setdefault(steps, {})
        missing = [score for score in scores if score not in known]
        if missing:
            best = dict.fromkeys(missing, -1.0)
            label = np.repeat([0, 1], [len(self.images.normal), len(self.images.abnormal)])
            for level in self._tried:
                train, normal, abnormal = (
                    self._end(Way(Kind.RECONSTRUCTION, steps), level, part) for part in ("train", "normal", "abnormal")
                )
                for score in missing:
                    ends = torch.cat([normal, abnormal])
                    seen = self._seen(score, ends, ("normal", "abnormal"))
                    value = auroc(label, self._scored(score, train, seen, ("normal", "abnormal"))[0])
                    if value is not None and value > best[score]:
                        best[score], known[score] = value, level
        return known

    @torch.no_grad()
    def _end(self, way: Way, level: int | None, part: str) -> Tensor:
        """Return what is scored of a part's images: (N, C, h, w) float32 on the CPU."""
        host, raw = self.detector.host, self._raw[part]
        if level is not None:
            inferer = ReconstructionInferer(level, self._evaluations(way, level), alphas_cumprod=host.alphas_cumprod)
            return self._batches(raw, lambda x, part: inferer(x, host.predictor(part)) - x)
        timesteps = way.timesteps(self.detector.timesteps, len(host.alphas_cumprod))
        if timesteps:
            return walk_to_noise(host, raw, timesteps, batch_size=_BATCH)
        return self._batches(raw, lambda x, _: x)

    def _batches(self, raw: Tensor, function: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        host = self.detector.host
        parts = (part.to(host.device).float() for part in raw.split(_BATCH))
        return torch.cat([function(host.normalise(part), part).cpu() for part in parts])

    @torch.no_grad()
    def _seen(self, score: str, ends: Tensor, parts: Sequence[str]) -> Tensor:
        """Return what a score is made of: ``ends``, or how they change what the looker sees of parts' images."""
        if score != IN_FEATURES:
            return ends
        assert self.looker is not None, "ask `why_not` first"
        x = torch.cat([self._batches(self._raw[part], lambda x, _: x) for part in parts])
        batches = zip(x.split(_BATCH), ends.split(_BATCH), strict=True)
        return torch.cat([(self.looker(own + error) - self.looker(own)).cpu() for own, error in batches])

    def _scored(self, score: str, train: Tensor, z: Tensor, parts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return scores (N,) and maps (N, h, w) of ``z``, of parts' images; rules are calibrated on ``train``."""
        if score in (PAPER, NORM, IN_FEATURES):
            values = z.flatten(1).norm(dim=1) if score == NORM else paper_score(z)
            return values.numpy(), anomaly_map(z).numpy()
        rule = self.detector.calibration.rule if score == OWN_RULE else score
        # What is held out makes p-values, of which a ranking makes no use.
        normal, seen = (
            Walked(torch.cat([self._batches(self._raw[part], lambda x, _: x) for part in names]), ends)
            for names, ends in ((("train",), train), (parts, z))
        )
        one = Walked(normal.encoding[:1], normal.end_point[:1])
        calibration = Calibration(z.shape[1], rule).fit(normal, one, [])
        return calibration.score(z).numpy(), calibration.map(seen).numpy()

    def _clock(self) -> float:
        return clock(self.detector.host.device)


@torch.no_grad()
def seconds_per_evaluation(network: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> float:
    """Return the seconds of a core (of the clock on a GPU) that a network takes for an image of ``x`` (B, C, h, w)."""
    t = torch.ones(len(x), dtype=torch.long, device=x.device)
    network(x, t)
    start = clock(x.device)
    network(x, t)
    return (clock(x.device) - start) / len(x)


def clock(device: torch.device) -> float:
    """Return seconds of all cores of this process, of a GPU those of the clock."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def inputs_digest(*values: Any) -> str:
    """Return 16 hex digits of plain values that a measurement depends on."""
    text = json.dumps([_FORMAT, LEVELS, CHOICE_STEPS, *values], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
