"""Measure anomalib's detectors on the images and features that ours and its baselines see.

anomalib is no dependency of this project. An environment that has both, and the run, from the root of the checkout:

    python3.11 -m venv rivals && rivals/bin/pip install anomalib==2.7.0 -e .
    rivals/bin/python -m monai.bundle run --config_file bundles/invad/configs/evaluate.json --dataset_dir ROOT \
        --models_dir bundles/invad/models --baselines True --output_dir output/evaluate
    rivals/bin/python tests/campaigns/anomalib_rivals.py ROOT/brain --model bundles/invad/models/model.pt \
        --evaluated output/evaluate --output output/rivals --rivals patchcore padim stfpm

Nothing is fetched: every network of anomalib is built without weights, and given `tf_efficientnet_lite0`'s out of
the installed package. Its torch models are called, not its engine: images come from `invad_med`, scores are ranked raw,
and figures and intervals are made of them as evaluate.json makes its own, over the same draws of patients, so that the
differences to the scores in ``--evaluated`` are paired. (anomalib's own figures are of scores cut to [0, 1].)

``<output>/<data set>-<rival>.csv`` has one row a variant: each changes one thing of the row above it, from our baseline
to anomalib's design.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import timm
import torch
from anomalib.models.components import TimmFeatureExtractor
from anomalib.models.image.padim.torch_model import PadimModel
from anomalib.models.image.patchcore.torch_model import PatchcoreModel
from anomalib.models.image.stfpm.loss import STFPMLoss
from anomalib.models.image.stfpm.torch_model import STFPMModel
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from invad_med.data.bmad import read_tree
from invad_med.data.transforms import to_image
from invad_med.detection import AnomalyDetector, load_detector
from invad_med.evaluation.batch import Images
from invad_med.evaluation.judge import Judgement, judge
from invad_med.evaluation.method import Scored
from invad_med.evaluation.methods.gaussian import PositionGaussian
from invad_med.evaluation.models_of import modality_of
from invad_med.evaluation.truth import Truth, read_truth
from invad_med.metrics.bootstrap import Figure, figure, paired_difference, resample_weights
from invad_med.networks.features import load_backbone, packaged_file
from invad_med.scoring import memory

BACKBONE = "tf_efficientnet_lite0"
LAYERS = ("blocks.1", "blocks.2", "blocks.4")  # strides 4, 8 and 16, as layer1 to layer3 of a ResNet
FIGURES = ("image_auroc", "pixel_ap")
BATCH = 16
Taps = dict[str, Tensor]
Variants = Iterator[tuple[str, Scored]]


class Material:
    """What rivals are made and measured of: one data set's normal training images and its test images.

    Args:
        root: folder of the data set.
        detector: of the model that ships for it.
        cache_dir: where our features are kept between runs, or None.
    """

    def __init__(self, root: Path, detector: AnomalyDetector, cache_dir: Path | None = None) -> None:
        (dataset,) = read_tree(root)
        modality = modality_of(dataset, None, True, None)
        self.detector, self.cache_dir = detector, cache_dir
        self.truth = read_truth(dataset, "test", modality)
        self.train_truth = read_truth(dataset, "train", modality).normals()

    @cached_property
    def features(self) -> tuple[Tensor, Tensor]:
        """Our features of training and test images, (N, C, h, w), normalised per channel, float16 as baselines do."""
        train, test = (Images(truth, self.detector, self.cache_dir) for truth in (self.train_truth, self.truth))
        return train.features, test.features

    @cached_property
    def raw_features(self) -> tuple[Tensor, Tensor]:
        """The same before the normalisation per channel, float32."""
        parts = self.detector.host.features
        mean, std = (x.view(1, -1, 1, 1) for x in (parts.feature_mean, parts.feature_std))
        train, test = (x.float() * std + mean for x in self.features)
        return train, test

    @cached_property
    def images(self) -> tuple[Tensor, Tensor]:
        """Training and test images, (N, 3, 256, 256) float32, normalised as the backbone takes them."""
        parts = self.detector.host.features
        train, test = (
            torch.from_numpy(np.stack([to_image(truth.read(i), truth.modality) for i in range(len(truth.images))]))
            for truth in (self.train_truth, self.truth)
        )
        return (train - parts.image_mean) / parts.image_std, (test - parts.image_mean) / parts.image_std

    @cached_property
    @torch.no_grad()
    def taps(self) -> tuple[Taps, Taps]:
        """The maps at `LAYERS` of training and test images by anomalib's extractor with lite0's weights."""
        extractor = with_weights(TimmFeatureExtractor(BACKBONE, LAYERS, pre_trained=False)).eval()
        train, test = (
            {name: torch.cat([part[name] for part in parts]) for name in LAYERS}
            for parts in ([extractor(batch) for batch in images.split(BATCH)] for images in self.images)
        )
        ours = self.raw_features[1][:, -test["blocks.4"].shape[1] :]
        print(f"largest difference to our tap of stride 16: {(ours - test['blocks.4']).abs().max():.3f}")
        return train, test


def with_weights(extractor: TimmFeatureExtractor) -> TimmFeatureExtractor:
    """Load lite0's weights into an extractor, and drop the stages behind its last tap, which nothing reads."""
    load_backbone(extractor.feature_extractor, BACKBONE, packaged_file(BACKBONE))
    return cut(extractor)


def cut(extractor: TimmFeatureExtractor) -> TimmFeatureExtractor:
    """Drop the stages behind the last tap, which timm would compute all the same."""
    network = extractor.feature_extractor
    network.blocks = network.blocks[: int(LAYERS[-1].split(".")[1]) + 1]
    return extractor


class Held(nn.Module):
    """An extractor that returns maps computed before: those set as ``taps``."""

    taps: Taps

    def forward(self, images: Tensor) -> Taps:
        """Return the maps, whatever the images."""
        return self.taps


def batches(model: PatchcoreModel | PadimModel, taps: Taps) -> Iterator[Tensor]:
    """Give a model maps in place of those that it would extract, batch by batch; yields a stand-in for the images."""
    held = Held()
    model.feature_extractor = held
    names = list(taps)
    for parts in zip(*(taps[name].split(BATCH) for name in names), strict=True):
        held.taps = dict(zip(names, (part.float() for part in parts), strict=True))
        yield torch.empty(len(parts[0]), 1, 256, 256)


@torch.no_grad()
def learn(model: PatchcoreModel | PadimModel, taps: Taps) -> None:
    """Let a model store the embeddings of training images."""
    model.train()
    for images in batches(model, taps):
        model(images)
    model.eval()


@torch.no_grad()
def predict(model: PatchcoreModel | PadimModel, taps: Taps) -> Scored:
    """Return a model's own raw scores and maps of test images."""
    predictions = [model(images) for images in batches(model, taps)]
    return Scored(
        torch.cat([p.pred_score for p in predictions]).flatten().numpy(),
        torch.cat([p.anomaly_map for p in predictions]).squeeze(1).numpy(),
    )


def maximum(maps: Tensor) -> Scored:
    """Return maps (N, h, w) scored by their largest value."""
    return Scored(maps.flatten(1).amax(1).numpy(), maps.numpy())


def mean(maps: np.ndarray) -> Scored:
    """Return maps (N, h, w) scored by their mean."""
    return Scored(maps.mean((1, 2)), maps)


# ---- PatchCore


def patchcore(material: Material, options: argparse.Namespace) -> Variants:
    """Walk from our nearest neighbours to anomalib's PatchCore."""
    train, test = material.features
    bank = memory.draw(train, 20_000)
    parts = [memory.distances(part.float(), bank) for part in test.split(BATCH)]
    yield "ours, mean of the map", mean(torch.cat(parts).numpy())
    yield "ours, largest of the map", maximum(torch.cat(parts))
    model = patchcore_model(neighbours=1)
    model.feature_pooler, model.memory_bank = nn.Identity(), bank
    yield "our bank in PatchcoreModel, 1 neighbour", predict(model, one(test))
    model.num_neighbors = 9
    yield "score weighted by 9 neighbours", predict(model, one(test))
    model = patchcore_model()
    learn(model, one(train))
    positions = torch.vstack(model.embedding_store)
    model.embedding_store.clear()
    order = torch.randperm(len(positions), generator=torch.Generator().manual_seed(0))
    model.memory_bank = positions[order[: len(bank)]]
    yield "features averaged over 3 x 3", predict(model, one(test))
    model.memory_bank = coreset(positions, options.coreset)
    yield f"greedy coreset of {options.coreset:.1%} ({len(model.memory_bank)})", predict(model, one(test))
    raw_train, raw_test = material.raw_features
    model = patchcore_model()
    learn(model, one(raw_train))
    model.memory_bank = coreset(torch.vstack(model.embedding_store), options.coreset)
    yield "features not normalised per channel", predict(model, one(raw_test))
    learnt, seen = ({name: taps[name] for name in LAYERS[1:]} for taps in material.taps)
    model = patchcore_model(LAYERS[1:])
    learn(model, learnt)
    model.memory_bank = coreset(torch.vstack(model.embedding_store), options.own_coreset)
    own = predict(model, seen)
    yield f"PatchCore: strides 8 and 16 on 32 x 32, {len(model.memory_bank)} positions", own
    yield "the same, mean of its map", mean(own.maps)


def patchcore_model(layers: tuple[str, ...] = LAYERS[-1:], neighbours: int = 9) -> PatchcoreModel:
    """Return anomalib's PatchCore; what it extracts is replaced by `batches`."""
    return PatchcoreModel(layers, BACKBONE, pre_trained=False, num_neighbors=neighbours).eval()


def coreset(positions: Tensor, ratio: float) -> Tensor:
    """Return the share of positions (n, C) that anomalib's `KCenterGreedy` keeps, each the farthest from those kept.

    It projects positions at random first, to 4 log(n) / 0.162 dimensions: more than C here. Without that projection it
    chooses the same positions from the same first one, several times slower.
    """
    squares = positions.square().sum(1)
    nearest = torch.full_like(squares, torch.inf)
    chosen = [int(torch.randint(len(positions), (1,), generator=torch.Generator().manual_seed(0)))]
    for _ in range(int(len(positions) * ratio) - 1):
        last = chosen[-1]
        distances = torch.addmv(squares, positions, positions[last], alpha=-2).add_(squares[last])  # squared
        torch.minimum(nearest, distances, out=nearest)
        nearest[last] = -torch.inf
        chosen.append(int(nearest.argmax()))
    return positions[chosen]


def one(features: Tensor) -> Taps:
    """Return merged features as the one tap of a model that is given them."""
    return {LAYERS[-1]: features}


# ---- PaDiM


def padim(material: Material, options: argparse.Namespace) -> Variants:
    """Walk from our Gaussians to anomalib's PaDiM."""
    train, test = material.features
    gaussian = PositionGaussian(train)
    parts = [gaussian.maps(part.float()) for part in test.split(BATCH)]
    yield "ours, largest of the map", maximum(torch.cat(parts))
    model = padim_model(one(train), train.shape[1])
    yield "PadimModel, all channels, not smoothed", padim_unsmoothed(model, test)
    yield "map smoothed (sigma 4 pixels) before its largest", predict(model, one(test))
    raw_train, raw_test = material.raw_features
    model = padim_model(one(raw_train), train.shape[1])
    yield "features not normalised per channel", predict(model, one(raw_test))
    for seed in range(options.seeds):
        model = padim_model(one(raw_train), 100, seed)
        yield f"100 channels drawn at random, seed {seed}", predict(model, one(raw_test))
    learnt, seen = material.taps
    for seed in range(options.seeds):
        model = padim_model(learnt, 100, seed)
        yield f"PaDiM: strides 4 to 16 on 64 x 64, 100 channels, seed {seed}", predict(model, seen)


def padim_model(taps: Taps, n_features: int, seed: int = 0) -> PadimModel:
    """Return anomalib's PaDiM fitted on maps of training images."""
    torch.manual_seed(seed)
    channels = sum(tap.shape[1] for tap in taps.values())
    model = PadimModel(BACKBONE, list(LAYERS), pre_trained=False, n_features=100)
    model.layers = list(taps)
    model.idx = torch.randperm(channels)[:n_features]  # as its constructor draws
    learn(model, taps)
    model.fit()
    return model


def padim_unsmoothed(model: PadimModel, test: Tensor) -> Scored:
    """Return PaDiM's distances on its own grid and the largest of each image."""
    statistics = [model.gaussian.mean, model.gaussian.inv_covariance]
    distance = model.anomaly_map_generator.compute_distance
    parts = [distance(part.float()[:, model.idx], statistics) for part in test.split(BATCH)]
    return maximum(torch.cat(parts).squeeze(1))


# ---- STFPM


def stfpm(material: Material, options: argparse.Namespace) -> Variants:
    """Train anomalib's STFPM, teacher and student lite0, with anomalib's loss and optimiser."""
    torch.manual_seed(0)
    make = timm.create_model  # its teacher is asked for pretrained weights, which are on a hub
    with mock.patch.object(timm, "create_model", lambda *a, **k: make(*a, **(k | {"pretrained": False}))):
        model = STFPMModel(LAYERS, BACKBONE)
    with_weights(model.teacher_model), cut(model.student_model)
    model.student_model.to(memory_format=torch.channels_last)  # half the time on CPUs
    images, taps, loss = material.images[0], material.taps[0], STFPMLoss()
    optimiser = torch.optim.SGD(model.student_model.parameters(), lr=0.4, momentum=0.9, weight_decay=0.001)
    model.student_model.train()
    order, start = torch.randperm(0), time.process_time()
    for step in range(1, options.steps + 1):
        if len(order) < 32:
            order = torch.randperm(len(images))
        rows, order = order[:32], order[32:]
        value = loss({name: tap[rows] for name, tap in taps.items()}, model.student_model(images[rows]))
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        if step % options.report == 0 or step == options.steps:
            print(f"step {step}: loss {value.item() / 32:.4f} an image, {time.process_time() - start:.0f} core-seconds")
            yield f"STFPM, {step} steps of 32", stfpm_predict(model, material.images[1])
            model.student_model.train()


@torch.no_grad()
def stfpm_predict(model: STFPMModel, images: Tensor) -> Scored:
    """Return STFPM's own raw scores and maps of test images."""
    model.eval()
    predictions = [model(part) for part in images.split(BATCH)]
    return Scored(
        torch.cat([p.pred_score for p in predictions]).numpy(),
        torch.cat([p.anomaly_map for p in predictions]).squeeze(1).numpy(),
    )


RIVALS: dict[str, Callable[[Material, argparse.Namespace], Variants]] = {
    "patchcore": patchcore,
    "padim": padim,
    "stfpm": stfpm,
}


# ---- figures


@dataclass(frozen=True)
class Reference:
    """The scores of an evaluation of the same images.

    Args:
        replicates: ``<score>/<figure>`` -> value and then its replicates.
        groups: how many were resampled.
    """

    replicates: dict[str, np.ndarray]
    groups: int

    def minus(self, judged: Judgement, name: str) -> Figure | None:
        """Return the calibrated score's figure minus a rival's, paired; None where the figure does not exist."""
        both = self.replicates.get(f"calibrated/{name}")
        if both is None or name not in judged.figures:
            return None
        ours = figure(float(both[0]), both[1:], self.groups)
        assert ours is not None
        return paired_difference(ours, judged.figures[name], both[1:], judged.replicates[name])


def rows(truth: Truth, variants: Variants, reference: Reference) -> Iterator[dict[str, object]]:
    """Judge variants one by one; yields the rows of the table."""
    weights = resample_weights(reference.groups, 1000, 0)
    for variant, scored in variants:
        judged = judge(truth, scored, weights)
        assert np.isclose(judged.values["image_auroc"], roc_auc_score(truth.labels, scored.scores))
        row: dict[str, object] = {"variant": variant}
        for name in FIGURES:
            for prefix, f in (("", judged.figures.get(name)), ("calibrated - ", reference.minus(judged, name))):
                row[f"{prefix}{name}"] = "" if f is None else f"{f.value:.3f} [{f.low:.3f}, {f.high:.3f}]"
        print(*row.values(), sep=" | ", flush=True)
        yield row


def main() -> None:
    """Measure the rivals asked for on one data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="a data set in BMAD's layout, named as it is prepared")
    parser.add_argument("--model", type=Path, required=True, help="the checkpoint whose features are used")
    parser.add_argument("--evaluated", type=Path, required=True, help="output folder of evaluate.json for the same set")
    parser.add_argument("--output", type=Path, default=Path("output/rivals"))
    parser.add_argument("--cache_dir", type=Path, help="keep our features here, as evaluate.json does")
    parser.add_argument("--rivals", nargs="+", choices=RIVALS, default=list(RIVALS))
    parser.add_argument("--coreset", type=float, default=0.01, help="share of positions kept of our features")
    parser.add_argument("--own_coreset", type=float, default=0.01, help="the same for PatchCore's own layers")
    parser.add_argument("--seeds", type=int, default=3, help="draws of PaDiM's channels")
    parser.add_argument("--steps", type=int, default=200, help="of STFPM")
    parser.add_argument("--report", type=int, default=50, help="steps of STFPM after which it is measured")
    options = parser.parse_args()
    torch.set_num_threads(1)
    material = Material(options.root, load_detector(options.model), options.cache_dir)
    name = options.root.resolve().name
    groups = int(material.truth.groups.max()) + 1
    with np.load(options.evaluated / name / "replicates.npz") as arrays:
        reference = Reference({key: arrays[key] for key in arrays.files if key != "cohort"}, groups)
    options.output.mkdir(parents=True, exist_ok=True)
    for rival in options.rivals:
        table = []
        for row in rows(material.truth, RIVALS[rival](material, options), reference):
            table.append(row)
            pd.DataFrame(table).to_csv(options.output / f"{name}-{rival}.csv", index=False)


if __name__ == "__main__":
    main()
