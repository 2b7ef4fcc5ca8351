"""The tables of what is measured: the detector's own scores, and the baselines that they must beat.

A baseline is added by its file and its row here. It is given images and, computed once for all, the detector's own
features of them (`invad_med.evaluation.batch`); it gives scores and maps (`invad_med.evaluation.method`). Most are a
`MapBaseline`.
"""

from __future__ import annotations

from invad_med.evaluation.method import Factory
from invad_med.evaluation.methods.gaussian import Gaussian
from invad_med.evaluation.methods.neighbours import NearestNeighbours
from invad_med.evaluation.methods.no_inversion import NoInversion
from invad_med.evaluation.methods.own import Calibrated, Official, Paper
from invad_med.evaluation.methods.reconstruction import Reconstruction

METHODS: dict[str, Factory] = {"calibrated": Calibrated, "paper": Paper, "official": Official}
BASELINES: dict[str, Factory] = {
    "no_inversion": NoInversion,
    "gaussian": Gaussian,
    "nearest_neighbours": NearestNeighbours,
    "reconstruction": Reconstruction,
}
