"""What a checkpoint knows of whole studies."""

import numpy as np
import pytest
import torch

from invad_med.data.modalities import find_modality
from invad_med.detection import AnomalyDetector, FeatureHost, load_detector
from invad_med.networks import FrozenFeatures, create_denoiser
from invad_med.scoring.studies import HIGHEST_OF
from invad_med.training.artefact import finish_training
from invad_med.training.cohort import Cohort
from invad_med.training.features import CohortFeatures


def narrow():
    return create_denoiser("cpu", 192, 4, depth=1, hidden_size=32)


def made(root, patients, placed=True, found=4, lift=6.0):
    """A cohort of patients of 6 slices, three for each part, whose features are noise; no file is read."""
    parts = {}
    for part in ("train", "selection", "calibration", "abnormal"):
        parts[part] = tuple(root / f"{part}{i}.png" for i in range(18))
        for path in parts[part]:
            path.write_bytes(path.name.encode())
    unlearnt = [path for part in ("selection", "calibration", "abnormal") for path in parts[part]]
    who = {path: f"{path.stem.rstrip('0123456789')}-{unlearnt.index(path) // 6}" for path in unlearnt}
    cohort = Cohort(
        find_modality("brain"),
        **parts,
        masks=(None,) * 18,
        patients=who if patients else {path: str(path) for path in unlearnt},
        positions={path: (i % 6 + 0.5) / 6 if placed or i else None for i, path in enumerate(unlearnt)},
    )
    generator = torch.Generator().manual_seed(0)
    raw = {part: torch.randn(18, 192, 4, 4, generator=generator).half() for part in parts}
    raw["abnormal"][torch.arange(18) % 6 < found] += lift
    return cohort, CohortFeatures(**raw)


def trained(tmp_path, **kind):
    cohort, features = made(tmp_path, **kind)
    detector = AnomalyDetector(FeatureHost(FrozenFeatures(), narrow(), image_size=64))
    detector.host.fit_normalisation(features.train)
    return finish_training(detector, narrow().state_dict(), cohort, features, tmp_path / "model.pt"), cohort, detector


def test_held_out_patients_judge_studies(tmp_path):
    path, cohort, detector = trained(tmp_path, patients=True)
    loaded = load_detector(path)
    studies = loaded.studies
    assert np.unique(studies.patients, return_counts=True)[1].tolist() == [6, 6, 6]
    assert studies.positions.tolist() == pytest.approx([cohort.positions[p] for p in cohort.calibration])
    assert studies.highest_of == HIGHEST_OF and not loaded.provenance.study_candidates  # of 6 slices none is told
    verdict = loaded.judge_study([9.0] * 5, [0.1, 0.3, 0.5, 0.7, 0.9], 0.4)
    assert verdict.abnormal and verdict.p_value == 0.25
    assert verdict == detector.judge_study([9.0] * 5, [0.1, 0.3, 0.5, 0.7, 0.9], 0.4)
    assert loaded.judge_study([0.0], [0.5]).withheld.startswith("3 held-out normal patients support no threshold")


def test_positions_count_only_where_all_are_known(tmp_path):
    path, _, _ = trained(tmp_path, patients=True, placed=False)
    assert not load_detector(path).studies.has_positions


def test_without_patients_a_study_of_one_slice_is_judged_as_an_image(tmp_path):
    path, _, _ = trained(tmp_path, patients=False)
    loaded = load_detector(path)
    assert loaded.studies.drawn == 1 and len(np.unique(loaded.studies.patients)) == 18
    for score in (-9.0, 0.0, 9.0):
        image = loaded.calibration.references.p_value(np.float32([score])).item()
        assert loaded.judge_study([score]).p_value == pytest.approx(image, abs=0.06)  # a rank more or less


def test_a_checkpoint_trained_earlier_has_no_verdict_on_studies(tmp_path):
    path, _, _ = trained(tmp_path, patients=True)
    state = torch.load(path, weights_only=True)
    del state["studies._extra_state"]
    torch.save(state, path)
    assert load_detector(path).judge_study([1.0]).withheld == "the model is not calibrated for studies"
