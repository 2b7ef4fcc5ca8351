"""What normal looks like: statistics of normal images that give one image's score a meaning of its own.

The end point of a trained inversion is not exactly N(0, I) even on normal images, so each channel is first
standardised with the mean and deviation it has over normal training images ("whitened"). What is made of that is a
rule's (`invad_med.scoring.rules`): statistics for the image's score, and a map. The statistics are standardised over
the normal training images, and an image's score is the length of their deviations above normal. Disease may be diffuse
(the whole map rises a little) or local, and local disease often shifts the features of a region in one direction,
which the mean of their whitened vectors shows where their lengths do not; so there is more than one rule, and a
checkpoint states its own (docs/results.md tells how they were found). A rule that remembers keeps vectors of
the normal training images, and one with encodings positions of these; what the images come to themselves is found with
what one half of them keeps for the other, so that no image is its own neighbour.

P-values and thresholds are ranks among held-out normal images (`invad_med.scoring.conformal`). The map has a threshold
by the same argument: of each held-out map the value is kept that a twentieth of it exceeds, and a fresh normal image
ranks among these.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from invad_med.diffusion import Timesteps, Walked
from invad_med.scoring.conformal import References, halfway_up, why_withheld
from invad_med.scoring.memory import averaged, distances, draw, exact_distances
from invad_med.scoring.rules import DEFAULT_RULE, find_rule

_MAP_SHARE = 0.05  # of a normal image's map that may lie above its threshold


class Calibration(nn.Module):
    """Statistics of normal images, stored with the model and applied to one image at a time, on that image's device.

    Args:
        channels: C of the end point z.
        rule: name of what makes the score, see `invad_med.scoring.rules.RULES`.

    Raises:
        ValueError: there is no such rule.
    """

    z_mean: Tensor
    z_std: Tensor
    statistics_mean: Tensor
    statistics_std: Tensor
    remembered: Tensor
    encodings: Tensor
    map_std: Tensor
    reference: Tensor
    map_reference: Tensor

    def __init__(self, channels: int, rule: str = DEFAULT_RULE) -> None:
        super().__init__()
        self.use_rule(rule)
        self.register_buffer("z_mean", torch.zeros(channels))
        self.register_buffer("z_std", torch.ones(channels))
        self.register_buffer("statistics_mean", torch.zeros(0))  # (k,) of `statistics` over normal training images
        self.register_buffer("statistics_std", torch.ones(0))
        self.register_buffer("remembered", torch.zeros(0, channels))  # (n, C), of a rule that remembers
        self.register_buffer("encodings", torch.zeros(0, channels))  # (n, C), of a rule with these
        self.register_buffer("map_std", torch.ones(0))  # (2,) of both parts of its map
        self.register_buffer("reference", torch.zeros(0))  # scores of the held-out normals, `halfway_up`
        self.register_buffer("map_reference", torch.zeros(0))  # what a twentieth of each map exceeds, alike
        self.timesteps: list[tuple[int, int | None]] = []

    def use_rule(self, name: str) -> None:
        """Score by another rule; what is fitted is then to be fitted anew.

        Raises:
            ValueError: there is no such rule.
        """
        self.rule, self._rule = name, find_rule(name)

    def fit(self, train: Walked, held_out: Walked, timesteps: Timesteps) -> Calibration:
        """Fit on normal images and return self.

        Args:
            train: N training images, (N, C, h, w), for what is subtracted, divided by and compared with.
            held_out: n images that no part of the model has seen, (n, C, h, w), for the p-value.
            timesteps: the pairs (t, t_next) that made both.

        Raises:
            ValueError: no image, channels that differ from the module's, or values that are not finite.
        """
        for name, part in (("train", train), ("held_out", held_out)):
            z = part.end_point
            if len(z) == 0 or z.shape[1] != len(self.z_mean):
                raise ValueError(f"{name} has shape {tuple(z.shape)}: expected (N > 0, {len(self.z_mean)}, h, w)")
            if not (torch.isfinite(z).all() and torch.isfinite(part.encoding).all()):
                raise ValueError(f"{name} is not finite: the network that made it has diverged, or is damaged")
        z_train = train.end_point
        flat = z_train.transpose(0, 1).flatten(1).double()
        self.z_mean = flat.mean(1).to(self.z_mean)
        self.z_std = flat.std(1).clamp_min(1e-6).to(self.z_std)
        self.timesteps = list(timesteps)
        statistics = self._normal_statistics(z_train).double()
        self.statistics_mean = statistics.mean(0).to(self.z_mean)
        self.statistics_std = statistics.std(0, correction=0).clamp_min(1e-6).to(self.z_mean)
        self._fit_map(train)
        self.reference = _halfway_up(self.score(held_out.end_point)).to(self.z_mean)
        maps = self.map(held_out).flatten(1)
        exceeded = maps.kthvalue(math.ceil((1.0 - _MAP_SHARE) * maps.shape[1]), dim=1).values
        self.map_reference = _halfway_up(exceeded).to(self.z_mean)
        return self

    def _normal_statistics(self, z_train: Tensor) -> Tensor:
        """Return the statistics (N, k) of what is learnt from, and remember it if the rule does."""
        count = self._rule.remembers
        if not count:
            self.remembered = self.remembered[:0]
            return self.statistics(z_train)
        statistics = []
        for half, other in _halves(z_train):
            self.remembered = self._vectors(other, count)
            statistics.append(self.statistics(half))
        self.remembered = self._vectors(z_train, count)
        return torch.cat(statistics)

    def _vectors(self, z: Tensor, count: int) -> Tensor:
        """Return ``count`` vectors of normal ``z``, rounded as a checkpoint stores them."""
        return self._drawn(torch.cat([averaged(self.whiten(part)) for part in z.split(64)]), count)

    def _drawn(self, normals: Tensor, count: int) -> Tensor:
        return draw(normals, count).half().to(self.z_mean)

    def _fit_map(self, train: Walked) -> None:
        """Take down what a map is compared with and divided by, if the rule has encodings."""
        count = self._rule.encodings
        self.encodings, self.map_std = self.encodings[:0], self.map_std[:0]
        if count:
            found = [exact_distances(half, self._drawn(other, count)) for half, other in _halves(train.encoding)]
            parts = self._rule.map(self.whiten(train.end_point)), torch.cat(found)
            deviations = torch.stack([part.double().std(correction=0) for part in parts])
            self.map_std = deviations.clamp_min(1e-6).to(self.z_mean)
            self.encodings = self._drawn(train.encoding, count)

    def why_not(self, timesteps: Timesteps) -> str | None:
        """Return why scores made with ``timesteps`` have no calibrated meaning, or None if they have."""
        return why_withheld(len(self.reference), self.timesteps, timesteps)

    def whiten(self, z: Tensor) -> Tensor:
        """Return ``z`` (B, C, h, w), each channel with mean 0 and deviation 1 on normal images."""
        mean, std = (x.to(z.device).view(1, -1, 1, 1) for x in (self.z_mean, self.z_std))
        return (z - mean) / std

    def map(self, walked: Walked) -> Tensor:
        """Return the rule's map of images (B, C, h, w): (B, h, w), >= 0."""
        found = self._rule.map(self.whiten(walked.end_point))
        if not self._rule.encodings:
            return found
        bank, std = self.encodings.to(found.device), self.map_std.to(found.device)
        return found / std[0] + exact_distances(walked.encoding.to(bank), bank) / std[1]

    def statistics(self, z: Tensor) -> Tensor:
        """Return the rule's statistics of ``z`` (B, C, h, w): (B, k)."""
        whitened = self.whiten(z)
        if self._rule.remembers:
            return self._rule.statistics(distances(averaged(whitened), self.remembered.to(z.device)))
        return self._rule.statistics(whitened)

    def score(self, z: Tensor) -> Tensor:
        """Return the image score of ``z`` (B, C, h, w): (B,), in deviations from normal, negative if below."""
        mean, std = (x.to(z.device) for x in (self.statistics_mean, self.statistics_std))
        return combined((self.statistics(z) - mean) / std)

    def check_sizes(self) -> None:
        """Raise ValueError unless what is fitted has the sizes that the rule takes."""
        if len(self.reference) == 0:
            return
        channels, rule = len(self.z_mean), self._rule
        for name, wanted in (("remembered", rule.remembers), ("encodings", rule.encodings)):
            shape = tuple(getattr(self, name).shape)
            if len(shape) != 2 or shape[1] != channels or bool(shape[0]) != bool(wanted):
                takes = f"{'some' if wanted else 'no'} vectors of {channels} channels"
                raise ValueError(f"calibration.{name} is {shape}, and the rule {self.rule} takes {takes}")
        parts = 2 * bool(rule.encodings)
        if self.map_std.shape != (parts,):
            raise ValueError(
                f"calibration.map_std is {tuple(self.map_std.shape)}, and the rule {self.rule} takes {parts} deviations"
            )
        if not all(bool((std > 0).all()) for std in (self.z_std, self.statistics_std, self.map_std)):
            raise ValueError("calibration holds deviations that are not above 0")
        if len(self.map_reference) == 0 or bool((self.map_reference.diff() < 0).any()):
            raise ValueError(f"calibration.map_reference is of {len(self.map_reference)} values, not some in order")
        with torch.no_grad():
            count = self.statistics(self.z_mean.new_zeros(1, len(self.z_mean), 16, 16)).shape[1]
        sizes = len(self.statistics_mean), len(self.statistics_std)
        if sizes != (count, count):
            raise ValueError(f"the rule {self.rule} makes {count} statistics; mean and std are of {sizes}")

    @property
    def references(self) -> References:
        """What the held-out normal images came to, which p-values and thresholds are ranks among."""
        return References(self.reference.cpu().numpy(), self.map_reference.cpu().numpy())

    def get_extra_state(self) -> dict[str, Any]:
        """Return what the statistics were fitted for, so that it travels in the state dict."""
        return {"score": self.rule, "timesteps": [list(pair) for pair in self.timesteps]}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take up what the statistics were fitted for.

        Raises:
            ValueError: they were fitted for a rule that is not known here.
        """
        self.use_rule(state["score"])
        self.timesteps = [(t, t_next) for t, t_next in state["timesteps"]]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # The number of held-out normals, of statistics and of what is remembered is the checkpoint's.
        own = ("statistics_mean", "statistics_std", "remembered", "encodings", "map_std", "reference", "map_reference")
        for name in own:
            stored = state_dict.get(prefix + name)
            if stored is not None:
                setattr(self, name, self.z_mean.new_zeros(stored.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _halves(normals: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return both halves of normal images (N, ...), each with the other; all of a single image with itself."""
    halves = [part for part in normals.tensor_split(2) if len(part)]
    return list(zip(halves, reversed(halves), strict=True))


def _halfway_up(values: Tensor) -> Tensor:
    return torch.from_numpy(halfway_up(values.cpu().numpy()))


def combined(deviations: Tensor) -> Tensor:
    """Return the length of the positive ones of ``deviations`` (B, k), or the largest if none is: (B,)."""
    return deviations.clamp_min(0.0).norm(dim=1) + deviations.amax(1).clamp_max(0.0)
