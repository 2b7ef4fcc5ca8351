"""What names and shapes do not tell: a host that is another one, unsteady, untrained or wrongly stated is told."""

import json
import logging
import shutil

import monai.bundle
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, UNet2DModel, VQModel
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import DDPMScheduler as MonaiDDPM
from torch import nn

from invad_med import __main__ as command_line
from invad_med.bundle import root
from invad_med.detection import load_detector
from invad_med.diffusion import Grid, linear_alphas_cumprod
from invad_med.hosts import ClassLabel, from_callable, from_diffusers, from_monai, read_host
from invad_med.training.calibrating import calibrate_host
from tests.hosts import made

ONE_STEP = {"grid": Grid(1, "truncated"), "rule": "cell_of_8"}
SCHEDULE = linear_alphas_cumprod()
IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
MONAI = dict(
    spatial_dims=2, in_channels=1, out_channels=1, channels=(16, 32), attention_levels=(False, True),
    num_res_blocks=1, norm_num_groups=8, num_head_channels=8,
)  # fmt: skip


class Small(nn.Module):
    """A network with dropout and BatchNorm, and a sign that no weight tells."""

    def __init__(self, sign=1.0, dropout=0.0, norm=False):
        super().__init__()
        self.sign, layers = sign, [nn.Conv2d(1, 4, 3, padding=1)]
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layers = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4) if norm else nn.Identity()]
            self.layers = nn.Sequential(*layers, nn.Dropout(dropout), nn.Conv2d(4, 1, 3, padding=1))

    def forward(self, x, t):
        return self.sign * self.layers(x)


def hosted(network, **others):
    """A host of a function over 32 x 32 grey pixels."""
    return from_callable(network, SCHEDULE, size=32, channels=1, **others)


def p_values(detector):
    return [detection.p_value for detection in detector.detect(IMAGES)]


def test_arguments_that_build_another_network_are_told(noise_set, tmp_path):
    network = made.perturbed(DiffusionModelUNet(**MONAI))
    wrong = MONAI | {"num_head_channels": 4, "norm_num_groups": 4}  # the same names and shapes
    assert {k: v.shape for k, v in DiffusionModelUNet(**wrong).state_dict().items()} == {
        k: v.shape for k, v in network.state_dict().items()
    }
    model = calibrate_host(
        from_monai(network, MonaiDDPM(), size=32, network_arguments=wrong), noise_set, tmp_path / "a.pt", **ONE_STEP
    )
    with pytest.raises(ValueError, match="not the one that was calibrated: predicted noise of a fixed input off by up"):
        load_detector(model)


def test_a_function_that_does_something_else_is_told(noise_set, tmp_path):
    model = calibrate_host(hosted(Small()), noise_set, tmp_path / "a.pt", **ONE_STEP)
    assert p_values(load_detector(model, host=hosted(Small()))) == p_values(load_detector(model, host=hosted(Small())))
    with pytest.raises(ValueError, match="not the one that was calibrated"):
        load_detector(model, host=hosted(Small(sign=-1.0)))
    with pytest.raises(ValueError, match="another host than the given one: schedule is"):
        load_detector(model, host=from_callable(Small(), SCHEDULE**0.5, size=32, channels=1))


def test_one_host_serves_two_checkpoints(noise_set, tmp_path):
    first = calibrate_host(hosted(Small()), noise_set, tmp_path / "a.pt", **ONE_STEP)
    other = Small()
    nn.init.normal_(other.layers[3].weight)
    second = calibrate_host(hosted(other), noise_set, tmp_path / "b.pt", **ONE_STEP)
    host = hosted(Small())
    detector = load_detector(first, host=host)
    before = detector(IMAGES)
    load_detector(second, host=host)
    assert torch.equal(detector(IMAGES), before)


@pytest.mark.parametrize("network", [Small(dropout=0.5), Small(norm=True)], ids=["dropout", "batch norm"])
def test_networks_inside_of_functions_are_put_in_evaluation_mode(network):
    for function in (network.forward, lambda x, t: network(x, t)):
        network.train()
        hosted(function).note_behaviour()
        assert not network.training


def test_what_is_unsteady_is_refused(noise_set, tmp_path):
    def calibrate(function):
        calibrate_host(hosted(function), noise_set, tmp_path / "a.pt", **ONE_STEP)

    with pytest.raises(ValueError, match="something else each time for the same input"):
        calibrate(lambda x, t: torch.randn_like(x))
    with pytest.raises(ValueError, match="depends on the others in its batch"):
        calibrate(lambda x, t: x - x.mean(0, keepdim=True))
    with pytest.raises(ValueError, match="NaN or infinite"):
        calibrate(lambda x, t: x / 0)
    with pytest.raises(ValueError, match="predicts zero"):
        calibrate(lambda x, t: 0 * x)
    assert not list(tmp_path.glob("*.pt"))


def test_a_prediction_that_is_none_of_noise_is_warned_of(noise_set, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        calibrate_host(hosted(lambda x, t: x), noise_set, tmp_path / "a.pt", **ONE_STEP)
        assert "mean squared error" in caplog.text and "no better than zero" not in caplog.text
        calibrate_host(hosted(lambda x, t: -x), noise_set, tmp_path / "b.pt", **ONE_STEP)
    assert "no better than zero" in caplog.text


def test_encodings_of_another_function_are_not_taken_from_the_cache():
    def encoder(factor):
        return lambda image: factor * nn.functional.avg_pool2d(image, 2)

    digests = {hosted(Small(), encode=encoder(factor)).encoder_digest() for factor in (1.0, -3.0, 1.0)}
    assert len(digests) == 2


def test_half_precision_is_widened():
    host = from_diffusers(made.pixel_unet().bfloat16(), DDPMScheduler())
    assert {p.dtype for p in host.denoiser.network.parameters()} == {torch.float32}


def test_another_host_in_a_finished_folder_is_refused(noise_set, tmp_path, capsys):
    for name, seed in (("first", 0), ("second", 1)):
        made.perturbed(made.pixel_unet(), seed).save_pretrained(tmp_path / name)
        DDPMScheduler().save_config(tmp_path / name)

    def train(name):
        monai.bundle.run(
            config_file=f"{root()}/configs/train.json", dataset_dir=str(noise_set), host=str(tmp_path / name), steps=1,
            warmup_steps=1, output_dir=str(tmp_path / "run"), device="cpu", rule="cell_of_8", other_timesteps=[],
        )  # fmt: skip

    train("first")
    train("first")  # goes on
    with pytest.raises(RuntimeError) as error:
        train("second")
    assert "weights" in str(error.value.__cause__)


class TestSchedules:
    def test_the_schedulers_own_is_taken_where_it_shifts_it(self):
        diffusers = pytest.importorskip("diffusers")
        scheduler = diffusers.CogVideoXDDIMScheduler(snr_shift_scale=3.0)
        host = from_diffusers(made.pixel_unet(), scheduler)
        torch.testing.assert_close(host.alphas_cumprod, scheduler.alphas_cumprod.double(), atol=1e-6, rtol=0)
        betas = torch.cumprod(1 - scheduler.betas.double(), 0)
        assert (betas - host.alphas_cumprod).abs().max() > 0.1

    def test_what_is_no_diffusion_over_timesteps_is_refused(self):
        with pytest.raises(ValueError, match="timestep_type='continuous': its network takes noise levels"):
            from_diffusers(made.pixel_unet(), EulerDiscreteScheduler(timestep_type="continuous"))
        for wrong in (1 - torch.linspace(1e-4, 0.02, 1000), torch.full((10,), 0.5), torch.linspace(0.3, 0.1, 10)):
            with pytest.raises(ValueError, match="alphas_cumprod"):
                from_callable(Small(), wrong, size=32, channels=1)

    def test_old_files_say_what_is_predicted(self, tmp_path):
        made.pixel_unet().save_pretrained(tmp_path)
        DDPMScheduler().save_config(tmp_path)
        path = tmp_path / "scheduler_config.json"
        config = json.loads(path.read_text())
        del config["prediction_type"]
        path.write_text(json.dumps(config | {"predict_epsilon": False}))
        assert read_host(tmp_path).stated.prediction == "sample"


class TestPipelines:
    def test_of_latents_without_a_posterior(self, tmp_path):
        from diffusers import LDMPipeline

        unet = UNet2DModel(
            sample_size=8, in_channels=3, out_channels=3, block_out_channels=(8, 16), layers_per_block=1,
            norm_num_groups=8, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
        )  # fmt: skip
        vqvae = VQModel(block_out_channels=(8,), norm_num_groups=8)
        LDMPipeline(vqvae, unet, DDIMScheduler()).save_pretrained(tmp_path / "ldm")
        with pytest.raises(ValueError, match="a pipeline with vqvae, which is not read here"):
            read_host(tmp_path / "ldm")
        with pytest.raises(ValueError, match="VQModel has no posterior"):
            from_diffusers(unet, DDPMScheduler(), vqvae)
        shutil.rmtree(tmp_path / "ldm" / "vqvae")
        with pytest.raises(ValueError, match="vqvae"):  # as its index says
            read_host(tmp_path / "ldm")

    def test_options_that_a_zoo_model_does_not_take(self, tmp_path):
        (tmp_path / "mednist_ddpm").mkdir()
        with pytest.raises(ValueError, match="takes no label, network_file: leave it out"):
            read_host(tmp_path / "mednist_ddpm", network_file="weights.bin", label=3)


def test_conditions_that_a_network_does_not_have():
    network = DiffusionModelUNet(**MONAI)
    with pytest.raises(ValueError, match="class 7 is none of the 0"):
        from_monai(network, MonaiDDPM(), size=32, conditioning=ClassLabel(7))
    with pytest.raises(ValueError, match="class 11 is none of the network's, 0 to 10"):
        from_diffusers(made.class_dit(), DDPMScheduler(), made.vae(), ClassLabel(11))
    with pytest.raises(ValueError, match="not one of images in two dimensions"):
        from_monai(DiffusionModelUNet(**MONAI | {"spatial_dims": 3}), MonaiDDPM())


def test_a_size_or_device_that_does_not_work_is_told(noise_set, tmp_path, capsys):
    made.pixel_unet().save_pretrained(tmp_path / "ddpm")
    DDPMScheduler().save_config(tmp_path / "ddpm")
    words = ["calibrate", str(tmp_path / "ddpm"), str(noise_set), "--output", str(tmp_path / "a.pt")]
    assert command_line.main([*words, "--size", "17"]) == 2
    assert "does not work on cpu at (1, 17, 17) (channels, height, width)" in capsys.readouterr().err


def test_training_leaves_out_timesteps_without_signal(noise_set, tmp_path):
    made.pixel_unet().save_pretrained(tmp_path / "zsnr")
    DDPMScheduler(
        num_train_timesteps=4, rescale_betas_zero_snr=True, prediction_type="v_prediction", beta_end=0.9
    ).save_config(tmp_path / "zsnr")
    model = tmp_path / "a.pt"
    monai.bundle.run(
        config_file=f"{root()}/configs/train.json", dataset_dir=str(noise_set), host=str(tmp_path / "zsnr"), steps=4,
        focus=[0, 4], output_dir=str(tmp_path / "run"), ckpt_path=str(model), device="cpu", rule="cell_of_8",
        warmup_steps=1, other_timesteps=[],
    )  # fmt: skip
    assert model.is_file()
