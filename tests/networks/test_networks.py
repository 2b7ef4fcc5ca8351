"""Networks, checkpoint loading and frozen features."""

import pytest
import timm
import torch

from invad_med.networks import DiT, FrozenFeatures, TokenMLP, create_denoiser, load_denoiser


def test_patches_cover_the_map_once():
    network = DiT(3, 8, 16, 1, 2, patch_size=2)
    torch.nn.init.normal_(network.final_layer.linear.weight)
    assert network(torch.randn(2, 3, 8, 8), torch.tensor([0, 999])).shape == (2, 3, 8, 8)


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match=r"DiT expects \(B, 3, 8, 8\), not \(1, 3, 4, 4\)"):
        DiT(3, 8, 16, 1, 2)(torch.zeros(1, 3, 4, 4), torch.zeros(1))
    with pytest.raises(ValueError, match=r"TokenMLP expects \(B, 3, h, w\)"):
        TokenMLP(3, 16, 1)(torch.zeros(1, 4, 4, 4), torch.zeros(1))
    with pytest.raises(ValueError, match="patch_size=3 does not divide input_size=8"):
        DiT(3, 8, 16, 1, 2, patch_size=3)


def test_checkpoints_of_several_gpus_load(tmp_path):
    network = DiT(3, 4, 16, 1, 2)
    tensors = {f"module.net.{k}": torch.randn_like(v) for k, v in network.state_dict().items()}
    tensors["module.net.y_embedder.embedding_table.weight"] = torch.zeros(2, 16)
    path = tmp_path / "authors.pth"
    torch.save({"model": tensors}, path)
    assert load_denoiser(network, path) == ["y_embedder.embedding_table.weight"]
    torch.testing.assert_close(network.pos_embed, tensors["module.net.pos_embed"], check_device=False)


def test_anything_else_is_refused_by_name(tmp_path):
    network = DiT(3, 4, 16, 1, 2)
    tensors = dict(network.state_dict())
    tensors["extra.weight"] = torch.zeros(1)
    del tensors["pos_embed"]
    tensors["final_layer.linear.bias"] = torch.zeros(5)
    with pytest.raises(ValueError, match=r"missing: pos_embed; not expected: extra.weight; other shape: .*\(5,\)"):
        load_denoiser(network, tensors)
    with pytest.raises(FileNotFoundError, match=r"does not exist: train one with configs/train\.json"):
        load_denoiser(network, tmp_path / "none.pt")
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="cannot be read safely"):
        load_denoiser(network, broken)


@pytest.fixture(scope="module")
def features() -> FrozenFeatures:
    return FrozenFeatures()


@torch.no_grad()
def test_packaged_features_equal_the_whole_timm_model(features):
    # The same weights in timm's whole classifier, loaded in order, tapped by hooks: an independent path.
    from invad_med.networks.features import packaged_file

    whole = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    tensors = torch.load(packaged_file("tf_efficientnet_lite0"), weights_only=True)
    whole.load_state_dict(dict(zip(whole.state_dict(), tensors.values(), strict=True)))
    taps = {}
    for index in (0, 1, 2, 4):
        whole.blocks[index].register_forward_hook(lambda m, i, o, index=index: taps.update({index: o}))
    image = torch.rand(2, 3, 64, 64)
    whole((image - 0.5) / 0.5)
    expected = torch.cat(
        [torch.nn.functional.interpolate(taps[i], (4, 4), mode="bilinear", align_corners=False) for i in (0, 1, 2, 4)],
        dim=1,
    )
    assert features.origin == "package"
    assert features.out_channels == 192
    torch.testing.assert_close(features.raw(image), expected, rtol=1e-4, atol=1e-4)


def test_the_network_is_cut_after_the_last_tap(features):
    assert len(features.body.blocks) == 5
    assert sum(p.numel() for p in features.parameters()) < 0.8e6


def test_the_grid_of_an_image_size(features):
    assert features.grid_size(256) == 16 and features.grid_size(128) == 8
    for wrong in (250, 0, "256"):
        with pytest.raises(ValueError, match=f"image_size={wrong!r} must be a multiple of the backbone's 16"):
            features.grid_size(wrong)


def test_features_stay_frozen(features):
    features.train()
    assert not features.training
    assert not any(p.requires_grad for p in features.parameters())


@torch.no_grad()
def test_channel_normalisation_standardises_and_is_stored():
    features = FrozenFeatures()
    images = torch.rand(4, 3, 64, 64)
    features.fit_normalisation(features.raw(images))
    normalised = features(images).transpose(0, 1).flatten(1)
    torch.testing.assert_close(normalised.mean(1), torch.zeros(192), atol=1e-3, rtol=0)
    torch.testing.assert_close(normalised.std(1), torch.ones(192), atol=1e-3, rtol=0)
    later = FrozenFeatures(weights="checkpoint")
    later.load_state_dict(features.state_dict())
    torch.testing.assert_close(later(images), features(images))


def test_features_are_never_random(monkeypatch):
    features = FrozenFeatures(weights="checkpoint")
    with pytest.raises(RuntimeError, match="has no weights yet"):
        features(torch.rand(1, 3, 32, 32))
    with pytest.raises(RuntimeError, match="needs weights_file"):
        FrozenFeatures(weights="file")
    with pytest.raises(RuntimeError, match="no package carries weights of resnet18"):
        FrozenFeatures("resnet18", weights="package")
    with pytest.raises(ValueError, match="choose auto, file, package, hub or checkpoint"):
        FrozenFeatures(weights="random")
    create_model = timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise OSError("no route to the hub")
        return create_model(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(RuntimeError, match="could not be fetched from the model hub"):
        FrozenFeatures("tf_efficientnet_b4.aa_in1k")


@torch.no_grad()
def test_b4_has_the_papers_channels_and_official_padding(tmp_path):
    whole = timm.create_model("tf_efficientnet_b4", pretrained=False)
    path = tmp_path / "b4.pth"
    torch.save(whole.state_dict(), path)
    plain = FrozenFeatures("tf_efficientnet_b4", weights_file=path, feature_norm=None)
    official = FrozenFeatures("tf_efficientnet_b4", weights_file=path, feature_norm=None, official_padding=True)
    assert plain.origin == "file"
    image = torch.rand(1, 3, 256, 256)
    a, b = plain(image), official(image)
    assert a.shape == b.shape == (1, 272, 16, 16)
    torch.testing.assert_close(a[:, :56], b[:, :56])  # the first two taps come before the padding
    assert not torch.allclose(a[:, 112:], b[:, 112:], rtol=1e-3)


@torch.no_grad()
def test_velocity_starts_as_the_predictor_of_standard_normal_data():
    from invad_med.diffusion import inversion_timesteps, invert, linear_alphas_cumprod

    network, x = create_denoiser("cpu", in_channels=8, input_size=4), torch.randn(3, 8, 4, 4)
    abar = linear_alphas_cumprod()
    for t in (0, 400, 999):  # E[eps | x_t] of N(0, I) data is sqrt(1 - abar) x_t
        torch.testing.assert_close(network(x, torch.full((3,), t)), (1 - abar[t]).sqrt().float() * x)
    z = invert(network, x, inversion_timesteps(50), abar)
    torch.testing.assert_close(z, x * z.norm() / x.norm(), rtol=1e-4, atol=1e-4)  # already noise: only its scale moves


@torch.no_grad()
def test_velocity_and_noise_are_one_network_in_two_words():
    network = create_denoiser("cpu", in_channels=8, input_size=4)
    torch.nn.init.normal_(network.network.final_layer.linear.weight)
    x0, eps, t = torch.randn(2, 8, 4, 4), torch.randn(2, 8, 4, 4), 300
    abar = float(network.sqrt_abar[t]) ** 2
    x = abar**0.5 * x0 + (1 - abar) ** 0.5 * eps
    # If v is the true velocity, the noise comes out exactly.
    network.network.forward = lambda x, t: abar**0.5 * eps - (1 - abar) ** 0.5 * x0
    torch.testing.assert_close(network(x, torch.full((2,), t)), eps, rtol=1e-4, atol=1e-4)
