"""Which checkpoints make the same encoding of an image."""

from __future__ import annotations

import hashlib

from invad_med.data.provenance import Provenance
from invad_med.serving.weights import Weights

OF_THE_DENOISER = frozenset({"preset", "sizes", "denoiser", "feature_norm"})  # what of an architecture shapes none
_WEIGHTS = "host.features.body."


def encoder_digest(weights: Weights) -> str:
    """Return a digest of all that the encoding in an opened checkpoint depends on, before its normalisation."""
    stated = Provenance.from_state(weights.read("_extra_state")).architecture
    settings = sorted((key, str(value)) for key, value in stated.items() if key not in OF_THE_DENOISER)
    digest = hashlib.sha256(repr(settings).encode())
    for name in sorted(name for name in weights.values if name.startswith(_WEIGHTS)):
        digest.update(name.encode() + weights.read(name).tobytes())
    return digest.hexdigest()
