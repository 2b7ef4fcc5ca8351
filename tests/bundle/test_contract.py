"""What MONAI's own tools and other people's exporters ask of the bundle."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ckpt_export, create_workflow, verify_metadata, verify_net_in_out

from invad_med.bundle import root

BUNDLE = Path(root())
CONFIGS = BUNDLE / "configs"
META = str(CONFIGS / "metadata.json")
SHARED = Path(os.environ.get("INVAD_SHARED", BUNDLE.parents[2] / "shared"))


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    parser = ConfigParser()
    parser.read_config(CONFIGS / "inference.json")
    return parser.get_parsed_content("network_def").eval()


def test_properties(tmp_path):
    workflow = create_workflow(
        config_file=str(CONFIGS / "inference.json"), workflow_type="infer", output_dir=str(tmp_path / "out")
    )
    assert workflow.check_properties() == []
    workflow.finalize()


def test_the_torch_network_is_built_where_it_computes_and_not_else():
    for given in ({}, {"denoiser": "$__import__('torch').nn.Identity()"}, {"network_def#engine": "compile"}):
        parser = ConfigParser()
        parser.read_config(CONFIGS / "inference.json")
        parser.update(given)
        if "denoiser" in given:  # which the weights do not fit
            with pytest.raises(RuntimeError, match="network_def"):
                parser.get_parsed_content("network")
        else:
            parser.get_parsed_content("network")
            assert ("network_def" in parser.ref_resolver.resolved_content) == bool(given)


def test_net_in_out():
    verify_net_in_out("network_def", META, str(CONFIGS / "inference.json"), device="cpu")


def test_metadata_has_what_the_model_zoo_asks():
    meta = json.loads(Path(META).read_text())
    assert meta["version"] in meta["changelog"]
    required = "schema version monai_version pytorch_version numpy_version required_packages_version task description"
    assert set(required.split()) | {"authors", "copyright", "network_data_format"} <= set(meta)


@pytest.mark.shared
def test_metadata_fits_the_schema(tmp_path):
    schema = tmp_path / "schema.json"
    shutil.copy(SHARED / "reference" / "meta_schema_20240725.json", schema)
    verify_metadata(meta_file=META, filepath=str(schema))


@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_torchscript_export(network, tmp_path):
    path = tmp_path / "model.ts"
    ckpt_export(
        net_id="network_def",
        filepath=str(path),
        ckpt_file=str(BUNDLE / "models" / "model.pt"),
        meta_file=META,
        config_file=str(CONFIGS / "inference.json"),
        key_in_ckpt="",
        use_trace=True,
        input_shape=[1, 3, 256, 256],
    )
    image = torch.rand(1, 3, 256, 256)
    torch.testing.assert_close(torch.jit.load(str(path))(image), network(image), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_onnx_export(network, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    path = tmp_path / "model.onnx"
    torch.onnx.export(network, (torch.rand(1, 3, 256, 256),), str(path), input_names=["image"], dynamo=True)
    image = torch.rand(1, 3, 256, 256)
    (ours,) = onnxruntime.InferenceSession(str(path)).run(None, {"image": image.numpy()})
    np.testing.assert_allclose(ours, network(image).numpy(), rtol=1e-4, atol=1e-4)
