"""What most baselines are: makers of maps, whose statistic and setting are chosen on ``valid``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from invad_med.detection import AnomalyDetector
from invad_med.evaluation.batch import Batch, Images
from invad_med.evaluation.method import Rows, Scored
from invad_med.evaluation.plan import Plan
from invad_med.metrics.image import auroc
from invad_med.scoring.scores import top_mean

MAP_STATISTICS: dict[str, Callable[[Tensor], Tensor]] = {
    "maximum": lambda maps: maps.flatten(1).amax(1),
    "largest 1 %": lambda maps: top_mean(maps, 0.01),
    "mean": lambda maps: maps.flatten(1).mean(1),
}


class MapBaseline:
    """A baseline that makes maps. A subclass says what it is (`about`) and makes them (`maps`); it may `learn`.

    Its image score is a statistic of its map. Statistic and setting are those with the highest image AUROC on
    ``valid``; without both classes there, the maximum and the first setting. `settings` is what `maps` can be set to,
    by name for the reader; the first is the default.
    """

    about: str
    settings: ClassVar[dict[str, Any]] = {"": None}

    def __init__(self, detector: AnomalyDetector, plan: Plan) -> None:
        self.detector, self.rows = detector, Rows()
        self.setting, self.statistic, self.chosen_on = next(iter(self.settings)), "maximum", "by default, without valid"

    def learn(self, train: Images) -> None:
        """Learn from normal training images; nothing unless a subclass does."""

    def maps(self, batch: Batch, setting: Any) -> Tensor:
        """Return maps of a batch: (B, h, w), larger is more abnormal."""
        raise NotImplementedError

    @torch.no_grad()
    def fit(self, train: Images | None, valid: Images | None) -> None:
        """Learn, and choose setting and statistic.

        Raises:
            ValueError: no training images.
        """
        if train is None:
            raise ValueError("there is no train split with normal images to fit a baseline on")
        self.learn(train)
        if valid is None or not valid.truth.both_classes:
            return
        best = -1.0
        for setting, value in self.settings.items():
            maps = torch.cat([self.maps(batch, value).cpu() for batch in valid.batches])
            for name, statistic in MAP_STATISTICS.items():
                reached = auroc(valid.labels, statistic(maps).numpy())
                if reached is not None and reached > best:
                    best, self.setting, self.statistic = reached, setting, name
                    self.chosen_on = f"chosen on valid, {len(valid.labels)} images"

    @torch.no_grad()
    def add(self, batch: Batch) -> None:
        """Make the maps of a batch."""
        self.rows.add(map=self.maps(batch, self.settings[self.setting]))

    def gather(self) -> None:
        """Take up the maps that the other processes made."""
        self.rows.gather()

    def scored(self) -> Scored:
        """Return maps and scores of all images added."""
        maps = self.rows["map"]
        note = f"{self.setting + ', ' if self.setting else ''}{self.statistic} of the map, {self.chosen_on}"
        return Scored(MAP_STATISTICS[self.statistic](torch.from_numpy(maps)).numpy(), maps, note=note)
