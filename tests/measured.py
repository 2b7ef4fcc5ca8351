"""A small evaluation that many tests look at: three data sets, models for two of them, all measured once."""

import numpy as np
import pytest
from PIL import Image


def copy_model(source, target):
    """Copy a checkpoint, so that it states the modality that its new name says."""
    import torch

    state = torch.load(source, weights_only=True)
    torch.save(state | {"_extra_state": state["_extra_state"] | {"modality": target.stem}}, target)


@pytest.fixture(scope="session")
def measured_folder(tmp_path_factory):
    """A root with a brain set (masks, patients), a test-only chest set and a broken one; models for the first two."""
    import torch

    from invad_med.detection import AnomalyDetector, FeatureHost
    from invad_med.networks import FrozenFeatures, create_denoiser
    from invad_med.training.artefact import finish_training
    from invad_med.training.cohort import read_cohort
    from invad_med.training.features import prepare_features

    root = tmp_path_factory.mktemp("data")
    rng, lines = np.random.default_rng(0), ["split,class,name,patient"]

    def save(path, bright=0):
        path.parent.mkdir(parents=True, exist_ok=True)
        image = rng.integers(0, 100, (64, 64), dtype=np.uint8)
        image[20:36, 20:36] += np.uint8(bright)
        Image.fromarray(image).save(path)

    for split, kind, count in (("train", "good", 16), ("valid", "good", 4), ("valid", "Ungood", 4)):
        for i in range(count):
            save(
                root / "BMAD/Brain_AD" / split / kind / ("" if split == "train" else "img") / f"{i:02d}.png",
                60 * (kind != "good"),
            )
            lines.append(f"{split},{kind},{i:02d},{split}SECRET{i // 2}")
            if split == "valid":
                label = root / "BMAD/Brain_AD/valid" / kind / "label" / f"{i:02d}.png"
                label.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((64, 64), 255 * (kind != "good"), np.uint8)).save(label)
    for kind in ("good", "Ungood"):
        for i in range(10):
            save(root / "BMAD/Brain_AD/test" / kind / "img" / f"{i:02d}.png", 100 * (kind != "good"))
            save(root / "BMAD/Chest-RSNA/test" / kind / "img" / f"{i:02d}.png", 100 * (kind != "good"))
            mask = np.zeros((64, 64), np.uint8)
            mask[20:36, 20:36] = 255 * (kind != "good")
            label = root / "BMAD/Brain_AD/test" / kind / "label" / f"{i:02d}.png"
            label.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(label)
            lines.append(f"test,{kind},{i:02d},testSECRET{i}")
    (root / "BMAD/Brain_AD/manifest.csv").write_text("\n".join(lines) + "\n")
    save(root / "BMAD/Liver_AD/test/good/img/a.png")
    save(root / "BMAD/Liver_AD/test/good/odd/a.png")

    cohort = read_cohort(root / "BMAD/Brain_AD", held_out_fraction=0.4)
    denoiser = create_denoiser("cpu", 192, 4, depth=1, hidden_size=32)
    detector = AnomalyDetector(FeatureHost(FrozenFeatures(), denoiser, image_size=64))
    features = prepare_features(detector.host, cohort, None, progress=False)
    torch.manual_seed(0)
    trained = create_denoiser("cpu", 192, 4, depth=1, hidden_size=32)
    torch.nn.init.normal_(trained.network.final_layer.linear.weight, std=0.1)
    finish_training(detector, trained.state_dict(), cohort, features, root / "models/brain.pt", seed=0)
    copy_model(root / "models/brain.pt", root / "models/chest.pt")
    return root


@pytest.fixture(scope="session")
def measured(measured_folder):
    """The root evaluated, with baselines."""
    from invad_med.data.bmad import inspect_tree
    from invad_med.evaluation.run import Evaluator

    evaluator = Evaluator(
        inspect_tree(measured_folder / "BMAD"), measured_folder / "out",
        models_dir=measured_folder / "models", baselines=True, resamples=100, false_positive_rate=0.2,
    )  # fmt: skip
    evaluator.run()
    return evaluator
