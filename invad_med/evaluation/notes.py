"""What a reader of figures should know about them, in sentences."""

from __future__ import annotations

from invad_med.evaluation.record import Evaluation


def notes_on(e: Evaluation) -> list[str]:
    """Return sentences on classes, masks, groups, thresholds and the model of a scored data set."""
    truth, notes = e.truth, []
    groups = int(truth.groups.max()) + 1
    if not truth.both_classes:
        notes.append("images of one class only: no figure that compares classes exists")
    if truth.has_masks and None in truth.masks and bool((truth.labels == 0).any()):
        notes.append("normal images without a mask file count as normal in every pixel")
    if not truth.grouped:
        notes.append("no patient is known: images are resampled one by one, intervals may be too narrow")
    elif groups < 20:
        notes.append(f"only {groups} groups to resample: read the intervals with care")
    for what, limit in (("image", e.own.threshold), ("pixel", e.own.map_threshold)):
        if limit is None:
            notes.append(
                f"no {what} threshold at a false-positive rate of {e.plan.false_positive_rate:g}: "
                "too few held-out normal images support it"
            )
    if e.studies is None:
        if truth.has_studies:
            notes.append("the model is not calibrated for studies: patients have no verdict until it is trained anew")
    else:
        if e.studies.stand_in:
            notes.append(
                "no patient is without an abnormal image: the normal images of each alone stand in for a normal study"
            )
        if e.studies.above is None:
            notes.append(
                f"no study threshold at a false-positive rate of {e.plan.false_positive_rate:g}: "
                f"{e.studies.patients} held-out normal patients do not support it"
            )
    if e.plan.split != "test":
        notes.append(
            f"images of {e.plan.split}: a model trained on this set learnt from them, or was chosen and calibrated on "
            "them, so that figures are no estimate for fresh images"
        )
    trained_on = e.provenance.modality
    if trained_on and trained_on != truth.modality.name:
        notes.append(f"the model was trained for {trained_on}, the images are prepared as {truth.modality.name}")
    return notes
