"""What an ablation compares: ways from an encoding to what is scored, their scores, and the tables they stand in.

Every way starts from the same encodings of the same images. A row is a way of a model with a score, and is compared
with another row: the walk of three evaluations on the paper's grid, by the same score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from invad_med.diffusion import Timesteps, inversion_timesteps
from invad_med.scoring.rules import DEFAULT_RULE, MENU

STEPS = (1, 2, 3, 5, 10, 50, 100, 1000)
STEPS_OF_SCORES = (1, 3, 10)
SINGLE = (50, 100, 200, 300, 500, 700)
STEPS_OF_INVERSION, STEPS_OF_RECONSTRUCTION = (1, 3, 10), (3, 10, 50)  # of the table of hosts
# Scores beside the rules of `invad_med.scoring.rules`; the last is the paper's of what a reconstruction differs by in
# the frozen features of the other models.
PAPER, NORM, OWN_RULE, IN_FEATURES = "paper", "norm", "own", "in_features"
BOTH = (PAPER, DEFAULT_RULE)
# Designs: a model that is there, the usual one, and hosts in pixels and latents.
GIVEN, DEFAULT, PIXEL, LATENT = "given", "default", "pixel", "latent"
THERE = (GIVEN, PIXEL, LATENT)


class Group(str, Enum):
    """A table."""

    __str__ = str.__str__

    COMPONENTS = "components"
    STEPS = "steps"
    HOSTS = "hosts"
    SCORES = "scores"
    GRIDS = "grids"
    DENOISERS = "denoisers"
    BACKBONES = "backbones"
    NORMALISATION = "normalisation"
    GRID_SIZE = "grid_size"


WITHOUT_TRAINING = (Group.COMPONENTS, Group.STEPS, Group.HOSTS, Group.SCORES, Group.GRIDS)
TITLES = {
    Group.COMPONENTS: "Components",
    Group.STEPS: "Evaluations: inversion, and reconstruction of the best level",
    Group.HOSTS: "Inversion and reconstruction with the same weights",
    Group.SCORES: "Scores by evaluations",
    Group.GRIDS: "Timestep grids",
    Group.DENOISERS: "Denoisers",
    Group.BACKBONES: "Backbones",
    Group.NORMALISATION: "Normalisation of the features",
    Group.GRID_SIZE: "Grid of the features",
}
# Other presets are trained as the usual one is, whose length and rate of the paper's recipe a small budget has not.
_AS_USUAL = "--backbone tf_efficientnet_lite0 --merge area --focus [50,450] --batch_size 16 --accumulation_steps 1"
# Group -> designs: what they are called, and how their keys of train.json differ from the usual design's.
DESIGNS: dict[Group, dict[str, str]] = {
    Group.DENOISERS: {
        "tiny": f"--preset tiny {_AS_USUAL} --learning_rate 5e-4",
        "mlp_small": f"--preset mlp_small {_AS_USUAL} --learning_rate 2e-4",
    },
    Group.BACKBONES: {"lite1": "--backbone tf_efficientnet_lite1", "lite2": "--backbone tf_efficientnet_lite2"},
    Group.NORMALISATION: {"raw_features": "--features#feature_norm None"},
    Group.GRID_SIZE: {"grid_8": "--image_size 128", "grid_12": "--image_size 192"},
}


class Kind(str, Enum):
    """What is done with an encoding before it is scored."""

    __str__ = str.__str__

    FEATURES = "features"
    PAPER = "paper"
    OFFICIAL = "official"
    TRUNCATED = "truncated"
    SINGLE = "single"
    OWN = "own"
    RECONSTRUCTION = "reconstruction"


@dataclass(frozen=True)
class Way:
    """From an encoding to what is scored.

    Args:
        kind: nothing; an inversion on a grid, from a single timestep, or the model's own; a reconstruction.
        number: evaluations asked for; of ``single`` the timestep of 1000; of features and the model's own nothing.
    """

    kind: Kind
    number: int = 0

    def __str__(self) -> str:
        return f"{self.kind}{self.number or ''}"

    def timesteps(self, own: Timesteps, schedule: int) -> Timesteps:
        """Return the pairs of an inversion, none where nothing is inverted.

        Args:
            own: the model's.
            schedule: T; more evaluations than it has are all that it has, and a single timestep is the same part.
        """
        if self.kind == Kind.SINGLE:
            return [(round(self.number * schedule / 1000), None)]
        if self.kind == Kind.PAPER:
            return inversion_timesteps(min(self.number, schedule - 1), "paper", schedule)
        if self.kind == Kind.OFFICIAL:
            return inversion_timesteps(self.number, "official", schedule)
        if self.kind == Kind.TRUNCATED:
            return inversion_timesteps(self.number, "truncated", schedule)
        return own if self.kind == Kind.OWN else []


THREE_STEPS = Way(Kind.PAPER, 3)


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Args:
        group: the table.
        label: what it is, for the reader.
        design: whose model.
        way, score: what is measured.
        against: design, way and score of the row that it is compared with; its own where it is that row.
    """

    group: Group
    label: str
    design: str
    way: Way
    score: str
    against: tuple[str, Way, str]

    @property
    def measured(self) -> tuple[str, Way, str]:
        """Design, way and score."""
        return self.design, self.way, self.score

    @property
    def is_default(self) -> bool:
        """Whether others are compared with it."""
        return self.measured == self.against


def rows_of(group: Group, base: str) -> list[Row]:
    """Return the rows of a table, the default row of each score among them.

    Args:
        group: the table.
        base: design whose models the tables without training are of.
    """
    if group in DESIGNS:
        return _trained(group)
    rows: list[Row] = []

    def add(label: str, way: Way, scores: Sequence[str] = BOTH, design: str = base, against: str | None = None) -> None:
        rows.extend(Row(group, label, design, way, s, (base, THREE_STEPS, against or s)) for s in scores)

    if group == Group.COMPONENTS:
        add("encoding without inversion", Way(Kind.FEATURES))
        add("pixel space, one step", Way(Kind.PAPER, 1), design=PIXEL)
        add("one step", Way(Kind.PAPER, 1))
        add("full: three steps", THREE_STEPS)
        add("the model's own inversion and rule", Way(Kind.OWN), [OWN_RULE], against=DEFAULT_RULE)
    elif group == Group.STEPS:
        for steps in STEPS:
            add(f"inversion, {steps}", Way(Kind.PAPER, steps))
        for steps in STEPS:
            add(f"reconstruction, {steps}", Way(Kind.RECONSTRUCTION, steps))
    elif group == Group.HOSTS:
        rows += [row for design in (base, PIXEL, LATENT) for row in _of_host(design)]
    elif group == Group.SCORES:
        for steps in STEPS_OF_SCORES:
            add(
                f"{steps} evaluation{'s'[: steps > 1]}",
                Way(Kind.PAPER, steps),
                (PAPER, NORM, *MENU),
                against=DEFAULT_RULE,
            )
    else:
        for kind in (Kind.PAPER, Kind.OFFICIAL, Kind.TRUNCATED):
            add(f"{kind}, 3", Way(kind, 3))
        for t in SINGLE:
            add(f"t = {t} alone", Way(Kind.SINGLE, t))
    return rows


def _of_host(design: str) -> list[Row]:
    """Return rows of one model, compared with its own three steps; in features only others can differ."""
    group, rows = Group.HOSTS, []
    for number in STEPS_OF_INVERSION:
        way = Way(Kind.PAPER, number)
        rows += [Row(group, f"{design}: inversion, {number}", design, way, s, (design, THREE_STEPS, s)) for s in BOTH]
    for number in STEPS_OF_RECONSTRUCTION:
        way, label = Way(Kind.RECONSTRUCTION, number), f"{design}: reconstruction, {number}"
        rows += [Row(group, label, design, way, s, (design, THREE_STEPS, s)) for s in BOTH]
        if design in (PIXEL, LATENT):
            rows.append(Row(group, label, design, way, IN_FEATURES, (design, THREE_STEPS, PAPER)))
    label, against = f"{design}: own inversion and rule", (design, THREE_STEPS, DEFAULT_RULE)
    rows.append(Row(group, label, design, Way(Kind.OWN), OWN_RULE, against))
    return rows


def _trained(group: Group) -> list[Row]:
    rows = []
    for design in (DEFAULT, *DESIGNS[group]):
        rows += [Row(group, design, design, THREE_STEPS, s, (DEFAULT, THREE_STEPS, s)) for s in BOTH]
        own = (Way(Kind.OWN), OWN_RULE)
        rows.append(Row(group, f"{design}, own inversion and rule", design, *own, (DEFAULT, *own)))
    return rows
