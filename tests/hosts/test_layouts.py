"""Published layouts: small perturbed weights saved in them, read as hosts, and what cannot be one."""

import json
import re

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, PNDMScheduler, UNet2DConditionModel
from monai.networks.nets import AutoencoderKL as MonaiAutoencoder
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import DDPMScheduler as MonaiDDPM

from invad_med.diffusion import inversion_timesteps, invert
from invad_med.hosts import ClassLabel, NullPrompt, Pixels, from_diffusers, from_monai, read_host
from invad_med.hosts.monai_zoo import ZOO, ZooModel
from invad_med.hosts.records import ScaleSource
from tests.hosts import made

SCALED = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
T = torch.tensor([10, 700])
PROMPT = torch.randn(5, 12, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def image():
    """Two images of 16 pixels a side."""
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def walked(host, image):
    """Return z_T, which the network must have had a part in."""
    x = host.encode(image)
    z = invert(host.eps, x, inversion_timesteps(3), host.alphas_cumprod)
    assert torch.isfinite(z).all() and host.eps(x, T).std() > 0.01
    return z


@torch.no_grad()
def test_a_folder_that_is_one_model(tmp_path, image):
    network = made.pixel_unet()
    network.save_pretrained(tmp_path)
    DDPMScheduler().save_config(tmp_path)
    host = read_host(tmp_path, licence="Apache-2.0")
    x = 2 * image.mean(1, keepdim=True) - 1
    torch.testing.assert_close(host.encode(image), x)
    torch.testing.assert_close(host.eps(x, T), network.eval()(x, T).sample)
    stated = host.architecture
    assert (stated.network.name, stated.image_size, stated.grid_size, stated.channels) == ("UNet2DModel", 16, 16, 1)
    assert stated.network.arguments["freq_shift"] == 1 and not stated.network.arguments["flip_sin_to_cos"]
    assert str(tmp_path) not in json.dumps(stated.to_plain())
    walked(host, image)


@torch.no_grad()
def test_old_names_of_attention_are_those_of_today(tmp_path, image):
    network = made.pixel_unet()
    network.save_pretrained(tmp_path, safe_serialization=False)
    DDPMScheduler().save_config(tmp_path)
    expected = read_host(tmp_path).encode(image), walked(read_host(tmp_path), image)
    file = tmp_path / "diffusion_pytorch_model.bin"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = torch.load(file, weights_only=True)
    for new, name in old.items():
        state = {re.sub(rf"(attentions\.\d+)\.{new}\.", rf"\1.{name}.", k): v for k, v in state.items()}
    assert any(".query." in name for name in state)
    torch.save(state, file)
    torch.testing.assert_close((read_host(tmp_path).encode(image), walked(read_host(tmp_path), image)), expected)
    state["conv_in.bulk"] = state.pop("conv_in.bias")
    torch.save(state, file)
    with pytest.raises(ValueError, match=r"missing: conv_in\.bias; not expected: conv_in\.bulk"):
        read_host(tmp_path)


@pytest.fixture
def stable(tmp_path):
    """A pipeline as Stable Diffusion is laid out, its prompt beside it."""
    folder = tmp_path / "stable"
    made.text_unet().save_pretrained(folder / "unet")
    made.vae().save_pretrained(folder / "vae")
    PNDMScheduler(skip_prk_steps=True, steps_offset=1, **SCALED).save_config(folder / "scheduler")
    torch.save({"prompt": PROMPT[None]}, tmp_path / "prompt.pt")
    return folder


@torch.no_grad()
def test_a_pipeline_over_latents_with_a_prompt(stable, image):
    host = read_host(stable, prompt=stable.parent / "prompt.pt")
    autoencoder = AutoencoderKL.from_pretrained(stable / "vae").eval()
    latents = autoencoder.encode(2 * image - 1).latent_dist.mean * 0.18215
    torch.testing.assert_close(host.encode(image), latents)
    torch.testing.assert_close(host.encode(image), host.encode(image), rtol=0, atol=0)  # no sample
    network = UNet2DConditionModel.from_pretrained(stable / "unet").eval()
    noise = network(latents, T, encoder_hidden_states=PROMPT.expand(2, -1, -1)).sample
    torch.testing.assert_close(host.eps(latents, T), noise, rtol=1e-4, atol=1e-5)
    assert (host.scale.source, host.scale.factor, host.image_size, host.grid_size) == ("stored", 0.18215, 16, 8)
    assert host.alphas_cumprod[999] == pytest.approx(0.00466, abs=1e-5)
    decoded = autoencoder.decode(latents / 0.18215).sample
    torch.testing.assert_close(host.decode(latents), decoded / 2 + 0.5, rtol=1e-4, atol=1e-5)
    walked(host, image)


def test_a_prompt_must_be_there_and_fit(stable):
    with pytest.raises(ValueError, match=r"UNet2DConditionModel needs a prompt at every evaluation: give condition"):
        read_host(stable)
    torch.save({"prompt": torch.zeros(5, 13)}, stable / "other.pt")
    with pytest.raises(ValueError, match="the prompt's embedding has 13 channels, UNet2DConditionModel takes 12"):
        read_host(stable, prompt=stable / "other.pt")
    torch.save({"prompt": torch.zeros(5)}, stable / "other.pt")
    with pytest.raises(ValueError, match=r"must hold one tensor .* 1 are there, \(5,\)"):
        read_host(stable, prompt=stable / "other.pt")
    with pytest.raises(ValueError, match="give one of prompt and label"):
        read_host(stable, prompt=stable.parent / "prompt.pt", label=3)


@torch.no_grad()
def test_glad_brings_weights_for_a_pipeline(stable, tmp_path, image):
    tuned = made.perturbed(made.text_unet(), seed=7)
    (tmp_path / "checkpoint-20000").mkdir()
    file = tmp_path / "checkpoint-20000" / "pytorch_model.bin"
    torch.save(tuned.state_dict(), file)
    host = read_host(stable, prompt=tmp_path / "prompt.pt", network_file=file, size=16)
    x = host.encode(image)
    expected = tuned.eval()(x, T, encoder_hidden_states=PROMPT.expand(2, -1, -1)).sample
    torch.testing.assert_close(host.eps(x, T), expected, rtol=1e-4, atol=1e-5)
    torch.save({k: v for k, v in tuned.state_dict().items() if k != "conv_in.bias"}, file)
    with pytest.raises(ValueError, match=r"does not fit the network; missing: conv_in\.bias"):
        read_host(stable, prompt=tmp_path / "prompt.pt", network_file=file)


@torch.no_grad()
def test_a_transformer_with_a_null_class_and_a_learned_sigma(tmp_path, image):
    network = made.class_dit()
    network.save_pretrained(tmp_path / "transformer")
    made.vae().save_pretrained(tmp_path / "vae")
    DDIMScheduler(clip_sample=False).save_config(tmp_path / "scheduler")
    host = read_host(tmp_path, licence="CC-BY-NC-4.0")
    assert host.architecture.learned_sigma and host.architecture.conditioning.label == 10 and host.channels == 4
    x = host.encode(image)
    output = network.eval()(x, T, class_labels=torch.tensor([10, 10])).sample
    assert output.shape[1] == 8
    torch.testing.assert_close(host.eps(x, T), output[:, :4])
    torch.testing.assert_close(host.eps(x, T), host.eps(x, T), rtol=0, atol=0)  # no label is dropped at random
    walked(host, image)
    third = read_host(tmp_path, label=3).eps(x, T)
    torch.testing.assert_close(third, network(x, T, class_labels=torch.tensor([3, 3])).sample[:, :4])


class TestZoo:
    """MONAI's Model Zoo, at a smaller size."""

    @pytest.fixture
    def small(self, monkeypatch):
        """Small models by the names of the zoo's."""
        for name, autoencoder in (("mednist_ddpm", None), ("brats_mri_axial_slices_generative_diffusion", True)):
            stated = ZooModel(
                made.MONAI_UNET, made.MONAI_AUTOENCODER if autoencoder else None, ZOO[name].schedule, 16, "Apache-2.0"
            )
            monkeypatch.setitem(ZOO, name, stated)

    @torch.no_grad()
    def test_over_pixels(self, tmp_path, small, image):
        folder = tmp_path / "mednist_ddpm"
        (folder / "models").mkdir(parents=True)
        network = made.monai_unet()
        torch.save(network.state_dict(), folder / "models" / "model.pt")
        host = read_host(folder)
        x = image.mean(1, keepdim=True)
        torch.testing.assert_close(host.encode(image), x)
        torch.testing.assert_close(host.eps(x, T), network.eval()(x, T))
        assert host.alphas_cumprod[333] == pytest.approx(0.3186, abs=1e-3)
        walked(host, image)

    @torch.no_grad()
    def test_over_latents_by_old_names(self, tmp_path, small, image):
        folder = tmp_path / "renamed"
        (folder / "models").mkdir(parents=True)
        networks = {"model": made.monai_unet(), "model_autoencoder": made.monai_autoencoder()}
        for name, network in networks.items():
            state = network.state_dict()
            for new, old in ((".attn.to_", ".to_"), (".attn.out_proj.", ".proj_attn."), ("postconv", "conv")):
                state = {k.replace(new, old): v for k, v in state.items()}
            assert state.keys() != network.state_dict().keys()
            theirs = type(network)(**(made.MONAI_UNET if name == "model" else made.MONAI_AUTOENCODER))
            theirs.load_old_state_dict(dict(state))  # MONAI's own way
            for key, tensor in theirs.state_dict().items():
                torch.testing.assert_close(tensor, network.state_dict()[key])
            torch.save({"model": state}, folder / "models" / f"{name}.pt")
        host = read_host(folder, name="brats_mri_axial_slices_generative_diffusion")
        mean, _ = networks["model_autoencoder"].eval().encode(image.mean(1, keepdim=True))
        torch.testing.assert_close(host.raw(image), mean)
        host.fit_normalisation(host.raw(image))
        assert (host.scale.source, host.scale.images) == (ScaleSource.ESTIMATED, 2)
        assert host.scale.factor == pytest.approx(1 / float(mean.std()), rel=1e-5)
        torch.testing.assert_close(host.eps(mean, T), networks["model"].eval()(mean, T))
        walked(host, image)

    def test_what_is_missing_or_another(self, tmp_path, small):
        (tmp_path / "mednist_ddpm").mkdir()
        with pytest.raises(FileNotFoundError, match=r"mednist_ddpm/models/model\.pt do not exist"):
            read_host(tmp_path / "mednist_ddpm")
        with pytest.raises(ValueError, match="'maisi' is none of the zoo's models that are known"):
            read_host(tmp_path, name="maisi")

    @pytest.mark.parametrize("name", ZOO)
    def test_the_published_sizes_can_be_built(self, name):
        with torch.device("meta"):
            network = DiffusionModelUNet(**ZOO[name].network)
            assert ZOO[name].autoencoder is None or MonaiAutoencoder(**ZOO[name].autoencoder)
        assert {"mednist_ddpm": 4.6e6}.get(name, 10e6) == pytest.approx(
            sum(p.numel() for p in network.parameters()), rel=0.5
        )
        MonaiDDPM(**ZOO[name].schedule)


class TestRefused:
    """Checkpoints in one file, each with its reason."""

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (
                {"state_dict": {"control_model.a": torch.ones(1), "model.diffusion_model.b": torch.ones(1)}},
                r"of DiAD, .* in no package: .*from_callable, with conditioning=ImageHint\(\)",
            ),
            ({"model_state_dict": {}, "ema": {}, "n_epoch": 3}, r'of AnoDDPM, .* noise="simplex"'),
            (
                {
                    "model": {
                        "input_blocks.0.0.weight": torch.ones(1),
                        "cond_stage_model.embedding.weight": torch.ones(1),
                    }
                },
                "of DeCo-Diff, which predicts the deviation from the normal image and no noise",
            ),
            ({"model": {"input_blocks.0.0.weight": 1, "mt_out.0.weight": 1}}, "of MAD-AD, .* have no licence"),
            ({"state_dict": {"diffusion.model.x": 1}}, "of cDDPM or pDDPM, which have no licence"),
            (
                {"net.blocks.0.attn.qkv.weight": 1, "net.final_layer.linear.weight": 1},
                "a noise predictor over features, as InvAD's authors publish",
            ),
            ({"something": 1}, "of no layout that is known: make its networks"),
        ],
        ids=["diad", "anoddpm", "deco-diff", "mad-ad", "cddpm", "authors", "unknown"],
    )
    def test_by_the_names_of_their_tensors(self, tmp_path, content, reason):
        torch.save(content, tmp_path / "model.ckpt")
        with pytest.raises(ValueError, match=r"model\.ckpt cannot be made a host: it is " + reason):
            read_host(tmp_path / "model.ckpt")

    def test_a_pickled_module(self, tmp_path):
        torch.save(made.monai_autoencoder(), tmp_path / "vae.pt")
        with pytest.raises(ValueError, match="cannot be read safely"):
            read_host(tmp_path / "vae.pt")

    def test_a_folder_of_something_else(self, tmp_path):
        with pytest.raises(ValueError, match=r"is no folder of diffusers .* and none of MONAI's Model Zoo"):
            read_host(tmp_path)
        with pytest.raises(FileNotFoundError, match="none does not exist: give a folder of diffusers or of MONAI's"):
            read_host(tmp_path / "none")

    def test_a_folder_without_a_part(self, tmp_path):
        network = made.pixel_unet()
        network.save_config(tmp_path)
        with pytest.raises(FileNotFoundError, match=r"has no weights: one of diffusion_pytorch_model\.safetensors"):
            read_host(tmp_path)
        network.save_pretrained(tmp_path)
        with pytest.raises(FileNotFoundError, match=r"has no scheduler_config\.json, so that its schedule"):
            read_host(tmp_path)
        (tmp_path / "scheduler_config.json").write_text('{"_class_name": "torch"}')
        with pytest.raises(ValueError, match="is of torch, which this version of diffusers does not know"):
            read_host(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text()) | {"_class_name": "Transformer3D"}
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match="holds a Transformer3D; known are UNet2DModel"):
            read_host(tmp_path)

    def test_what_does_not_fit_together(self):
        with pytest.raises(ValueError, match="the vae makes 4 channels, the network takes 1"):
            from_diffusers(made.pixel_unet(), DDPMScheduler(), made.vae())
        with pytest.raises(ValueError, match="UNet2DModel is not conditioned on anything: leave conditioning out"):
            from_diffusers(made.pixel_unet(), DDPMScheduler(), conditioning=NullPrompt(PROMPT))
        with pytest.raises(ValueError, match="UNet2DModel needs a class at every evaluation"):
            from_diffusers(made.pixel_unet(num_class_embeds=3), DDPMScheduler())
        classes = DiffusionModelUNet(**made.MONAI_UNET, num_class_embeds=3)
        with pytest.raises(ValueError, match="DiffusionModelUNet needs a class at every evaluation"):
            from_monai(classes, MonaiDDPM(), size=16)
        host = from_monai(classes, MonaiDDPM(), size=16, conditioning=ClassLabel(2), pixels=Pixels.in_range(1))
        assert host.eps(torch.zeros(2, 1, 16, 16), T).shape == (2, 1, 16, 16)
