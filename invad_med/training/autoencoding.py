"""What trains the autoencoder of a latent host: images as they are, and the usual loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from monai.networks.nets import AutoencoderKL
from monai.utils import CommonKeys
from torch import Tensor, nn

from invad_med.data.modalities import Modality
from invad_med.data.transforms import to_image
from invad_med.files import whole_file
from invad_med.readers.sources import read_raster


class Images(torch.utils.data.Dataset):
    """Images as MONAI items, read once: ``image``, (1, size, size) float32 in [0, 1], and as ``label`` the same.

    The channel is the mean of three.

    Args:
        paths: PNG, JPEG or TIFF files.
        modality: how they are prepared.
        size: side in pixels.

    Raises:
        ReadError: an image cannot be read.
    """

    def __init__(self, paths: Sequence[Path], modality: Modality, size: int) -> None:
        self._images = [to_image(read_raster(path), modality, size).mean(axis=0, keepdims=True) for path in paths]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        image = torch.from_numpy(self._images[index])
        return {CommonKeys.IMAGE: image, CommonKeys.LABEL: image}


class AutoencoderLoss(nn.Module):
    """Mean absolute error of the reconstruction, and the KL divergence of the posterior from N(0, I).

    Args:
        kl_weight: of the divergence, a sum over a latent and the mean over the images (Rombach et al., Appendix G).
    """

    def __init__(self, kl_weight: float = 1e-6) -> None:
        super().__init__()
        self.kl_weight = kl_weight

    def forward(self, output: tuple[Tensor, Tensor, Tensor], image: Tensor) -> Tensor:
        """Return the loss of ``output``, (reconstruction, mean, deviation) as MONAI's ``AutoencoderKL`` returns it."""
        reconstruction, mean, deviation = output
        variance = deviation.square()
        divergence = 0.5 * (mean.square() + variance - 1 - variance.log()).flatten(1).sum(1).mean()
        return (reconstruction - image).abs().mean() + self.kl_weight * divergence


@torch.no_grad()
def save_autoencoder(network: AutoencoderKL, held_out: Images, path: str | Path) -> float:
    """Write the weights, whole or not at all, and return the mean absolute error on images that were held out.

    Args:
        network: put in evaluation mode.
        held_out: normal images that it did not learn from.
        path: file of a state dictionary, as `invad_med.hosts.with_weights` reads it.
    """
    network.eval()
    device = next(network.parameters()).device
    errors = []
    for i in range(len(held_out)):
        image = held_out[i][CommonKeys.IMAGE][None].to(device)
        errors.append((network.reconstruct(image) - image).abs().mean().item())
    with whole_file(Path(path)) as partial:
        torch.save(network.state_dict(), partial)
    return sum(errors) / len(errors)
