"""A structured report (TID 1500 Measurement Report): the study's verdict, findings, the region of highest anomaly.

| measurement group | holds |
|---|---|
| ``study`` | its score, threshold, p-value and promised rate; slices scored, above theirs, expected there; all images |
| ``slice N``, the highest score first | of slices above threshold, 32 at most: score, threshold, p-value; its image |
| ``region of highest anomaly`` | an outline in pixel coordinates of the image that it lies on |

Numbers are dimensionless. A p-value is the share of held-out normal patients, or images, that score as high. A comment
says the verdict in words, or why it is withheld, and which slices are listed: viewers show every group as a finding.
Where slices have no threshold, those that rank highest are listed. All slices' numbers are in the table. A report that
replaces another says so in that comment, and names it in Predecessor Documents Sequence (0040,A360).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes

import invad_med
from invad_med.data.study import Study
from invad_med.readers.dicom.own import MANUFACTURER, RESEARCH
from invad_med.writers.dicom.account import ScoredSlice
from invad_med.writers.dicom.common import Author, Series, save
from invad_med.writers.dicom.contours import contours
from invad_med.writers.dicom.evidence import Refused
from invad_med.writers.dicom.parametric_map import NO_UNITS

SCORE = CodedConcept("anomaly-score", "99INVAD", "Anomaly score")
PAPER_SCORE = CodedConcept("paper-score", "99INVAD", "Anomaly score, not calibrated")
THRESHOLD = CodedConcept("threshold", "99INVAD", "Threshold of the anomaly score")
P_VALUE = CodedConcept("p-value", "99INVAD", "Conformal p-value among normal images")
HIGHEST = CodedConcept("highest", "99INVAD", "Highest value of the anomaly map")
MAP_THRESHOLD = CodedConcept("map-threshold", "99INVAD", "Threshold of the anomaly map")
ABOVE = CodedConcept("above", "99INVAD", "Anomaly score above threshold")
STUDY_SCORE = CodedConcept("study-score", "99INVAD", "Anomaly score of the study")
STUDY_THRESHOLD = CodedConcept("study-threshold", "99INVAD", "Threshold of the anomaly score of the study")
STUDY_P_VALUE = CodedConcept("study-p-value", "99INVAD", "Conformal p-value among normal patients")
STUDY_ABOVE = CodedConcept("study-above", "99INVAD", "Anomaly score of the study above threshold")
RATE = CodedConcept("false-positive-rate", "99INVAD", "False-positive rate promised by the thresholds")
SLICES = CodedConcept("slices", "99INVAD", "Slices scored")
SLICES_ABOVE = CodedConcept("slices-above", "99INVAD", "Slices above the threshold of a slice")
SLICES_EXPECTED = CodedConcept("slices-expected", "99INVAD", "Slices above it by chance if all are normal")
_SCHEME = CodingSchemeIdentificationItem("99INVAD", "invad-med anomaly detection", invad_med.__version__)

MOST_SLICES = 32  # listed

SERIES = Series("report", 8, "Anomaly report")


@dataclass(frozen=True)
class Replaced:
    """Earlier reports that a report replaces.

    Args:
        words: what it says of that: one sentence, without identity.
        reports: them, without pixels.
    """

    words: str
    reports: tuple[Dataset, ...]


@dataclass(frozen=True)
class Edition:
    """The reports of one series by one version of the results of its study.

    Args:
        version: from 1.
        images: stored images that they are of.
        reports: their files.
    """

    version: int
    images: int
    reports: tuple[Path, ...] = ()


@dataclass(frozen=True)
class History:
    """Where the report of a series stands among earlier ones.

    Args:
        now: the edition that it is of.
        earlier: those before, the oldest first, each of at least one report.
    """

    now: Edition
    earlier: tuple[Edition, ...]

    def replaced(self, series: str) -> Replaced | None:
        """Return what a report replaces; it names the version since which it says what it says, and those before that.

        Args:
            series: its own Series Instance UID, which is that of every report of the same images with the same result.

        Raises:
            OSError: an earlier report cannot be read.
        """
        since = self.now.version
        for edition in reversed(self.earlier):
            reports = tuple(pydicom.dcmread(path, stop_before_pixels=True) for path in edition.reports)
            if all(report.SeriesInstanceUID != series for report in reports):
                words = f"Version {since} of this report, of {self.now.images} stored images; it replaces version "
                return Replaced(f"{words}{edition.version}, of {edition.images}.", reports)
            since = edition.version
        return None


def write_report(author: Author, folder: Path, history: History | None = None) -> list[Path]:
    """Write ``<folder>/report.dcm``.

    Args:
        author: of it.
        folder: where it goes.
        history: earlier reports, if there are any.

    Raises:
        OSError: it cannot be written, or an earlier report cannot be read.
    """
    account, study = author.account, author.account.study
    assert study is not None
    algorithm = hd.sr.AlgorithmIdentification(
        name=account.model,
        version=invad_med.__version__,
        manufacturer=MANUFACTURER,
        family=codes.DCM.ArtificialIntelligence,
        parameters=[RESEARCH, *author.versions[1:], f"training data {author.serial}"],
    )
    listed, which = _listed(account.slices)
    keywords = author.keywords(SERIES)
    replaced = history.replaced(keywords["series_instance_uid"]) if history else None
    words = " ".join([_words(study), which, *([replaced.words] if replaced else [])])
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=author.uid("device"), name=account.model, manufacturer_name=MANUFACTURER,
        model_name=account.model, serial_number=author.serial,
    )  # fmt: skip
    report = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(
            observer_device_context=hd.sr.ObserverContext(codes.DCM.Device, device)
        ),
        procedure_reported=CodedConcept("363679005", "SCT", "Imaging procedure"),
        title=codes.DCM.ImagingMeasurementReport,
        imaging_measurements=[_study(author, study, algorithm, words), _highest(author, algorithm)],
    )
    ds = hd.sr.ComprehensiveSR(
        evidence=author.evidence.images,
        content=report[0],
        is_complete=True,
        is_final=False,
        coding_schemes=[_SCHEME],
        previous_versions=replaced.reports if replaced else None,
        **keywords,
    )
    groups = _groups(ds)  # highdicom copies and searches what it is given several times; these come after that
    _refer_to_all(groups[0], author)
    for place, position in enumerate(listed, start=1):
        groups.insert(place, _slice(author, position, algorithm)[0])
    author.finish(ds, SERIES)
    count = len(groups)
    return [save(ds, author, folder / "report.dcm", lambda read: _require(read, count, words))]


def _listed(slices: list[ScoredSlice]) -> tuple[list[int], str]:
    """Return the positions of the slices that the report lists, the highest first, and which they are in words."""
    judged = any(slice_.abnormal is not None for slice_ in slices)
    found = [i for i, slice_ in enumerate(slices) if slice_.abnormal or not judged]
    listed = sorted(found, key=lambda i: slices[i].rank)[:MOST_SLICES]
    if not found:
        return [], "No slice is listed, as none is above threshold."
    which = f"the {len(listed)} highest of {len(found)}" if len(listed) < len(found) else f"{len(found)}"
    if not judged:
        return listed, f"Listed: {which} scored, which have no threshold."
    return listed, f"Listed: {which} slices above threshold, of {len(slices)} scored."


def _groups(ds: Dataset) -> Sequence:
    """Return the measurement groups of a report.

    Raises:
        Refused: it holds no measurements.
    """
    for item in ds.ContentSequence:
        if item.ConceptNameCodeSequence[0].CodeValue == codes.DCM.ImagingMeasurements.value:
            groups: Sequence = item.ContentSequence
            return groups
    raise Refused("the report read back holds no measurements")


def _refer_to_all(group: Dataset, author: Author) -> None:
    """Add all images to the group of the study, which so are evidence that must be listed (PS3.3 C.17.2.3)."""
    images = dict[str, tuple[str, list[int]]]()  # class and frames by instance
    for i in range(len(author.account.slices)):
        image, frame = author.evidence.image_of(i)
        _, frames = images.setdefault(image.SOPInstanceUID, (image.SOPClassUID, []))
        frames += [frame] if frame is not None else []
    content = group.ContentSequence
    place = next(i for i, item in enumerate(content) if item.ConceptNameCodeSequence[0] == codes.DCM.Comment)
    for uid, (kind, frames) in reversed(images.items()):
        content.insert(place, hd.sr.SourceImageForMeasurementGroup(kind, uid, sorted(frames) or None))


def _require(read: Dataset, count: int, words: str) -> None:
    """Raise `Refused` unless a report read back has its template, groups and verdict, and evidence of its images."""
    template = read.ContentTemplateSequence[0].TemplateIdentifier
    groups = _groups(read)
    said = [item.TextValue for item in groups[0].ContentSequence if item.ValueType == "TEXT"]
    if template != "1500" or len(groups) != count or words not in said:
        raise Refused(f"{len(groups)} measurement groups of template {template} read back, {count} of 1500 written")
    listed = {
        item.ReferencedSOPInstanceUID
        for study in read.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    named = {
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for group in groups
        for item in group.ContentSequence
        if item.ValueType == "IMAGE"
    }
    if not named <= listed:
        raise Refused("the report read back refers to images that are not among its evidence")


def _study(
    author: Author, study: Study, algorithm: hd.sr.AlgorithmIdentification, words: str
) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    values = [
        (STUDY_SCORE, study.score),
        (STUDY_THRESHOLD, study.threshold),
        (STUDY_P_VALUE, study.p_value),
        (RATE, study.false_positive_rate),
        (SLICES, study.scored),
        (SLICES_ABOVE, study.above),
        (SLICES_EXPECTED, study.expected_above),
    ]
    group = hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=author.uid("report", "study"), identifier="study"),
        algorithm_id=algorithm,
        measurements=[_number(name, value) for name, value in values if value is not None],
        qualitative_evaluations=_verdict(STUDY_ABOVE, study.abnormal),
    )
    content = group[0].ContentSequence  # TID 1501 may be extended
    first = next(i for i, item in enumerate(content) if item.ValueType == "NUM")
    content.insert(first, hd.sr.TextContentItem(codes.DCM.Comment, words, hd.sr.RelationshipTypeValues.CONTAINS))
    return group


def _words(study: Study) -> str:
    """Return the verdict in words, as some viewers show numbers without their names."""
    score = "" if study.score is None else f"score {study.score:.3g}, "
    normal = "normal images" if study.slices == 1 else "normal patients"
    p_value = "" if study.p_value is None else f", p = {study.p_value:.2g} among {normal}"
    if study.threshold is None:
        said = f"Study without verdict: {score}{study.withheld}{p_value}."
    else:
        said = f"Study {'above' if study.abnormal else 'not above'} threshold: {score}"
        said += f"threshold {study.threshold:.3g}{p_value}."
        if study.false_positive_rate is not None:
            said += f" The threshold is exceeded by at most {study.false_positive_rate:g} of {normal}."
        said += f" {study.withheld}." if study.withheld else ""
    if study.above is not None:
        said += f" {study.above} of {study.scored} slices above theirs"
        said += f" ({study.slices} in all)" if study.slices > study.scored else ""
        said += f", {study.expected_above:.3g} expected by chance." if study.expected_above is not None else "."
    return said


def _verdict(name: CodedConcept, abnormal: bool | None) -> list[hd.sr.QualitativeEvaluation]:
    if abnormal is None:
        return []
    return [hd.sr.QualitativeEvaluation(name=name, value=codes.SCT.Yes if abnormal else codes.SCT.No)]


def _slice(
    author: Author, position: int, algorithm: hd.sr.AlgorithmIdentification
) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    slice_ = author.account.slices[position]
    image, frame = author.evidence.image_of(position)
    frames = None if frame is None else [frame]
    values = [
        (SCORE, slice_.score),
        (THRESHOLD, slice_.threshold),
        (P_VALUE, slice_.p_value),
        (PAPER_SCORE, slice_.paper_score),
        (HIGHEST, slice_.highest),
        (MAP_THRESHOLD, slice_.map_threshold),
    ]
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            uid=author.uid("report", "slice", str(slice_.index)), identifier=f"slice {slice_.index}"
        ),
        source_images=[hd.sr.SourceImageForMeasurementGroup(image.SOPClassUID, image.SOPInstanceUID, frames)],
        algorithm_id=algorithm,
        measurements=[_number(name, value) for name, value in values if value is not None],
        qualitative_evaluations=_verdict(ABOVE, slice_.abnormal),
    )


def _highest(
    author: Author, algorithm: hd.sr.AlgorithmIdentification
) -> hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    """Return the region around the highest value of all maps: its outline at the threshold, or the pixel alone."""
    position, values = author.account.highest
    row, column = (int(i) for i in np.unravel_index(int(np.argmax(values)), values.shape))
    image, frame = author.evidence.image_of(position)
    source = hd.sr.SourceImageForRegion(image.SOPClassUID, image.SOPInstanceUID, None if frame is None else [frame])
    at = np.array([column + 0.5, row + 0.5])
    around = [line for line in contours(values, author.account.limit) if _inside(line, at)]
    line = around[-1] if around else np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]) + at - 0.5
    return hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            uid=author.uid("report", "highest"), identifier="region of highest anomaly"
        ),
        referenced_region=hd.sr.ImageRegion(graphic_type="POLYLINE", graphic_data=line, source_image=source),
        finding_type=codes.SCT.MorphologicallyAbnormalStructure,
        algorithm_id=algorithm,
        measurements=[_number(HIGHEST, float(values[row, column]))],
    )


def _inside(line: np.ndarray, point: np.ndarray) -> bool:
    """Return whether a closed polyline goes around a point (even-odd rule)."""
    (x0, y0), (x1, y1) = line[:-1].T, line[1:].T
    crosses = (y0 > point[1]) != (y1 > point[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        at = x0 + (point[1] - y0) / (y1 - y0) * (x1 - x0)
    return bool(np.count_nonzero(crosses & (point[0] < at)) % 2)


def _number(name: CodedConcept, value: float) -> hd.sr.Measurement:
    return hd.sr.Measurement(name=name, value=float(value), unit=NO_UNITS)
