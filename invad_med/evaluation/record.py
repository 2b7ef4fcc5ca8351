"""All that was found out about one data set."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from invad_med.data.provenance import Provenance
from invad_med.evaluation.judge import Judgement
from invad_med.evaluation.method import Scored
from invad_med.evaluation.plan import Plan
from invad_med.evaluation.studies import Studies
from invad_med.evaluation.truth import Truth
from invad_med.metrics.bootstrap import Figure, paired_difference

OWN = "calibrated"  # the score that the others are compared with


@dataclass
class Evaluation:
    """All that was found out about one data set.

    Args:
        name: of its folder.
        truth, plan: what was measured and how.
        provenance: of the model, as its checkpoint states.
        checkpoint_digest: 16 hex digits of the checkpoint file's SHA-256.
        data_digest: of the split's images, see `invad_med.files.data_digest`.
        scored, judged: by name of the score, ``calibrated`` first.
        about: what each score is, in a line.
        notes: what the reader should know.
        seconds: wall time of scoring (reading included) and of measuring.
        studies: the patients' verdicts; None where patients are not known to the split or to the model.
        published: name of the published set whose test split this is, by its counts; None for any other.
    """

    name: str
    truth: Truth
    plan: Plan
    provenance: Provenance
    checkpoint_digest: str
    data_digest: str
    scored: dict[str, Scored] = field(default_factory=dict)
    judged: dict[str, Judgement] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    studies: Studies | None = None
    published: str | None = None

    @property
    def own(self) -> Scored:
        """The calibrated score."""
        return self.scored[OWN]

    @property
    def p_values(self) -> np.ndarray:
        """(N,) calibrated p-values."""
        values = self.own.p_values
        assert values is not None  # only a calibrated detector is evaluated
        return values

    def differences(self, other: str) -> dict[str, Figure]:
        """Return calibrated minus another score, paired, for each figure both have."""
        ours, theirs = self.judged[OWN], self.judged[other]
        a, b = ours.figures, theirs.figures
        return {
            name: paired_difference(a[name], b[name], ours.replicates[name], theirs.replicates[name])
            for name in a
            if name in b and not name.endswith("threshold")
        }
