"""What a training may score by: the inversions and rules that are chosen from when it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from invad_med.detection import Host
from invad_med.diffusion import Timesteps, Walked, check_timesteps, inversion_timesteps
from invad_med.features.endpoints import encodings, walk_to_noise
from invad_med.scoring.choice import Choice, EndPoints, Walk, as_walk, choose
from invad_med.scoring.rules import LENGTH_RULE, MENU, find_rule
from invad_med.training.features import CohortFeatures


@dataclass(frozen=True)
class Candidates:
    """Inversions and rules to choose from.

    Args:
        walks: timesteps of the inversions; the first is used unless another is told from it.
        rules: of the score; of another than `invad_med.scoring.rules.MENU` one is asked for.
    """

    walks: tuple[Walk, ...]
    rules: tuple[str, ...] = MENU

    def choose(self, host: Host, features: CohortFeatures, network: Callable[..., Tensor] | None = None) -> Choice:
        """Return what to score by: chosen on the selection and the abnormal images, the first where there is no choice.

        Args:
            host: whose normalisation, schedule and noise predictor apply.
            features: of the training; no test image is among them.
            network: noise predictor instead of the host's, such as averaged weights.

        Raises:
            ValueError: a rule that the host's noise gives no meaning.
        """
        menu = self.rules
        if not host.gaussian:
            if menu not in (MENU, (LENGTH_RULE,)):
                raise ValueError(
                    f"the rule {menu[0]} is not for a model that was trained with other than Gaussian noise: its "
                    f"score is the calibrated length of end points, {LENGTH_RULE}"
                )
            menu = (LENGTH_RULE,)
        several = len(self.walks) * len(menu) > 1
        if not several or not len(features.abnormal) or not len(features.selection):
            return Choice(list(self.walks[0]), menu[0], {})
        parts = [(raw, encodings(host, raw)) for raw in (features.train, features.selection, features.abnormal)]
        walks = {
            walk: EndPoints(*(Walked(x, walk_to_noise(host, raw, walk, network)) for raw, x in parts))
            for walk in self.walks
        }
        return choose(walks, features.lesions, menu, features.patients)


def find_candidates(
    timesteps: Timesteps, rule: str | None = None, others: Sequence[Timesteps] | None = None, schedule: int = 1000
) -> Candidates:
    """Return what a run chooses from.

    Args:
        timesteps: of the run's own inversion.
        rule: of the score; None: chosen.
        others: timesteps to choose from beside the run's own; None: those of `usual_walks` if the run's own are the
            first of these and the rule is chosen too, else none, so that what was asked for is what is used.
        schedule: T, the number of timesteps that there are.

    Raises:
        ValueError: there is no such rule, or a pair of timesteps lies beyond the schedule.
    """
    if rule is not None:
        find_rule(rule)
    usual = usual_walks(schedule)
    own = as_walk(timesteps)
    if others is None:
        others = usual[1:] if rule is None and own == usual[0] else ()
    walks = tuple(dict.fromkeys((own, *map(as_walk, others))))
    for walk in walks:
        check_timesteps(walk, schedule)
    return Candidates(walks, MENU if rule is None else (rule,))


def usual_walks(schedule: int) -> tuple[Walk, ...]:
    """Return the inversions that are chosen from, each ending in noise, of a schedule of T timesteps.

    One evaluation at a fifth of it; one more at three tenths; the latter alone.
    """
    own, later = inversion_timesteps(1, "truncated", schedule), 3 * schedule // 10
    return as_walk(own), ((own[0][0], later), (later, None)), ((later, None),)


def candidate_figures(choice: Choice) -> dict[str, float]:
    """Return what each candidate reached, by names such as ``cell_of_8 at 200 300``: evaluated there, then noise."""
    return {f"{rule} at {_title(walk)}": round(value, 4) for (walk, rule), value in choice.reached.items()}


def _title(walk: Walk) -> str:
    end = walk[-1][1]
    return " ".join(str(t) for t, _ in walk) + ("" if end is None else f" to {end}")
