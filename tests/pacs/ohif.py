"""What a radiologist sees: a study with our results in the OHIF viewer, photographed.

    python tests/pacs/ohif.py FOLDER --output pictures

stores the DICOM files below FOLDER (a study and what ``--dicom_out`` wrote about it; without FOLDER, a CT study of
registry data with a planted map) in an Orthanc of its own, opens every series in OHIF with a headless Chromium, maps
and segmentations over their source, turns to the slice where the map is highest, writes a picture of each and says
which were not shown. Needs Debian's ``orthanc``, ``orthanc-dicomweb`` and ``chromium``, ``pip install playwright``,
and the viewer: ``npm pack @ohif/app`` is called once if ``--viewer`` (the package's ``dist`` folder) is not given.
"""

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pydicom
from dicom_results import bump, make_abdomen, result_of
from orthanc import MISSING, orthanc, stow
from PIL import Image

from invad_med.writers.dicom.export import KINDS, DicomWriter

VERSION = "3.12.10"
CACHE = Path.home() / ".cache" / "invad-med" / f"ohif-{VERSION}"
BROWSER = [
    "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
]  # fmt: skip


def make_study(folder):
    """Write a CT study of registry data and every object about a planted map below a folder, and return the folder."""
    source = make_abdomen(folder / "source")
    maps = bump((source.n_slices, 512, 512), centre=(8, 230, 180), radius=(3, 60, 60))
    outcome = DicomWriter(folder, KINDS)(result_of(source, maps, "liver", "Liver CT"))
    assert not outcome.failed, outcome.failed
    return folder


def viewer(given=None):
    """Return the folder of the built viewer, fetched from the npm registry the first time."""
    if given:
        return Path(given)
    if not (CACHE / "package" / "dist" / "index.html").exists():
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(["npm", "pack", f"@ohif/app@{VERSION}"], cwd=folder, check=True, capture_output=True)
            (archive,) = Path(folder).glob("*.tgz")
            CACHE.parent.mkdir(parents=True, exist_ok=True)
            with tarfile.open(archive) as tar:
                tar.extractall(CACHE, filter="data")
    return CACHE / "package" / "dist"


@contextmanager
def served(dist, pacs):
    """Serve the viewer, its settings and, below /dicom-web, the PACS: one origin, so that no CORS is needed."""
    source = {
        "qidoRoot": "/dicom-web", "wadoRoot": "/dicom-web", "wadoUriRoot": "/dicom-web",
        "qidoSupportsIncludeField": False, "imageRendering": "wadors", "thumbnailRendering": "wadors",
        "enableStudyLazyLoad": True, "supportsFuzzyMatching": False, "omitQuotationForMultipartRequest": True,
    }  # fmt: skip
    module = "@ohif/extension-default.dataSourcesModule.dicomweb"
    settings = {
        "routerBasename": None, "extensions": [], "modes": [], "showStudyList": True,
        "strictZSpacingForVolumeViewport": False, "investigationalUseDialog": {"option": "never"},
        "defaultDataSourceName": "dw",
        "dataSources": [{"namespace": module, "sourceName": "dw", "configuration": source}],
    }  # fmt: skip

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(dist))

        def log_message(self, *args):
            pass

        def do_GET(self):
            path = self.path.partition("?")[0]
            if path.startswith("/dicom-web"):
                self._pass_on()
            elif path == "/app-config.js":
                self._answer(200, "text/javascript", b"window.config = " + json.dumps(settings).encode())
            else:
                if not (dist / path.lstrip("/")).is_file():
                    self.path = "/index.html"
                super().do_GET()

        def _pass_on(self):
            request = urllib.request.Request(pacs + self.path.removeprefix("/dicom-web"))
            request.add_header("Accept", self.headers.get("Accept", "*/*"))
            request.add_header("Host", self.headers["Host"])  # of which Orthanc makes the addresses of bulk data
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    self._answer(answer.status, answer.headers["Content-Type"], answer.read())
            except urllib.error.HTTPError as error:
                self._answer(error.code, "text/plain", error.read())

        def _answer(self, status, kind, body):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(ConnectionError):  # a page that is closed takes no more
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


@dataclass
class Shown:
    """What became of one entry of the study browser.

    Args:
        modality: as OHIF calls it: PMAP for a parametric map.
        description: Series Description.
        problem: why it is not seen, or None.
        picture: of the whole page.
        viewport: (H, W, 3) uint8, the image area alone.
        peak: pixel (row, column) of ``viewport`` where the map is highest; None where the image has no such place.
    """

    modality: str
    description: str
    problem: str | None
    picture: Path
    viewport: np.ndarray
    peak: tuple[int, int] | None

    def __str__(self):
        said = f"NOT SHOWN: {self.problem}" if self.problem else "shown"
        return f"{self.modality:4}  {self.description.split(' - ')[0]:26}  {self.picture.name}  {said}"


@dataclass(frozen=True)
class Peak:
    """Where a parametric map is highest.

    Args:
        frame: 0-based.
        place: in the patient, mm.
        window: upper end of the map's own window, of which the lower is 0.
    """

    frame: int
    place: list[float]
    window: float


def peak_of(path):
    """Return the `Peak` of a parametric map, or None for any other object and for a map without place."""
    ds = pydicom.dcmread(path)
    if "FloatPixelData" not in ds or "FrameOfReferenceUID" not in ds:
        return None
    values = np.frombuffer(ds.FloatPixelData, "<f4").reshape(-1, ds.Rows, ds.Columns)
    frame, row, column = map(int, np.unravel_index(values.argmax(), values.shape))
    shared, own = ds.SharedFunctionalGroupsSequence[0], ds.PerFrameFunctionalGroupsSequence[frame]
    along = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    spacing = shared.PixelMeasuresSequence[0].PixelSpacing
    start = np.array(own.PlanePositionSequence[0].ImagePositionPatient, float)
    place = start + along[0] * spacing[1] * column + along[1] * spacing[0] * row
    return Peak(frame, [*map(float, place)], float(shared.FrameVOILUTSequence[0].WindowWidth))


LISTED = """() => services.displaySetService.getActiveDisplaySets().map(d => ({
    id: d.displaySetInstanceUID, series: d.SeriesInstanceUID, source: d.referencedSeriesInstanceUID,
    modality: d.Modality, number: d.SeriesNumber, description: d.SeriesDescription || '', refused: !!d.unsupported}))"""
READY = "() => window.cornerstone?.getRenderingEngines()?.[0]?.getViewports()?.[0]?.getImageIds?.().length > 0"
TURN = """async peak => {  // to the slice of the peak; returns its place on the canvas
    const view = cornerstone.getRenderingEngines()[0]?.getViewports()[0], count = view?.getNumberOfSlices?.();
    if (!count) return null;
    const turn = async i => {
        await cornerstone.utilities.jumpToSlice(view.element, {imageIndex: i});
        view.render();
        await new Promise(done => setTimeout(done, 150));
    };
    const away = () => {
        if (peak && view.type === 'orthographic') {  // of a volume, its camera looks at the slice
            const {focalPoint, viewPlaneNormal} = view.getCamera();
            return Math.abs(viewPlaneNormal.reduce((sum, n, i) => sum + n * (peak.place[i] - focalPoint[i]), 0));
        }
        const plane = cornerstone.metaData.get('imagePlaneModule', view.getCurrentImageId());
        const stated = cornerstone.metaData.get('instance', view.getCurrentImageId())?.ImagePositionPatient;
        if (!peak || !stated || !plane?.rowCosines) return null;  // where none is stated, the viewer makes one up
        const [a, b] = [plane.rowCosines, plane.columnCosines];
        const normal = [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
        return Math.abs(normal.reduce((sum, n, i) => sum + n * (peak.place[i] - plane.imagePositionPatient[i]), 0));
    };
    let best = null;
    for (let i = 0; i < count; i++) {
        await turn(i);
        const d = away();
        if (d !== null && (!best || d < best[1])) best = [i, d];
    }
    await turn(best ? best[0] : Math.min(peak?.frame ?? count >> 1, count - 1));
    return best ? view.worldToCanvas(peak.place) : null;
}"""

WINDOW = """upper => {  // as the window tool does; the viewer multiplies maps by 100
    const view = cornerstone.getRenderingEngines()[0].getViewports()[0];
    const map = view.getActors().map(a => a.referencedId).find(id => id?.startsWith('pmap.'));
    view.setProperties({voiRange: {lower: 0, upper: 100 * upper}}, map);
    view.render();
}"""


def photograph(address, study, output, prefix, peak=None, patience=40):
    """Open every entry of a study, each in a page of its own, write a picture of it and say whether it is shown.

    Args:
        address: of the viewer.
        study: its UID.
        output: existing folder for the pictures.
        prefix: of their names.
        peak: the slice that is turned to; without one, the middle of a stack.
        patience: seconds until an entry that still loads counts as not shown.

    Returns:
        `Shown` by Series Instance UID, source images first.
    """
    from playwright.sync_api import sync_playwright

    shown = {}
    with sync_playwright() as play:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = play.chromium.launch(executable_path=chromium, args=BROWSER)
        try:
            with _opened(browser, address, study) as (page, _):
                listed = page.evaluate(LISTED)
            for entry in sorted(listed, key=lambda e: (e["source"] is not None or e["refused"], e["number"])):
                with _opened(browser, address, study) as (page, said):
                    path = output / f"{prefix}-{entry['number']}-{entry['modality'].lower()}.png"
                    shown[entry["series"]] = _show(page, said, entry, path, peak, patience)
                    if entry["source"] in shown and not shown[entry["series"]].problem:
                        if not drawn(shown[entry["series"]], shown[entry["source"]]).any():
                            shown[entry["series"]].problem = "no colour is drawn over the source"
                    print(shown[entry["series"]], flush=True)
        finally:
            browser.close()
    return shown


def missing(dist=None):
    """Return what is not installed, in words, or an empty text."""
    if MISSING:
        return MISSING
    if importlib.util.find_spec("playwright") is None:
        return "playwright is not installed"
    if not (shutil.which("chromium") or shutil.which("chromium-browser")):
        return "chromium is not installed"
    there = (Path(dist) if dist else CACHE / "package" / "dist") / "index.html"
    return "" if there.exists() or (not dist and shutil.which("npm")) else f"no viewer: {there} is missing, npm too"


def drawn(over, source):
    """Return where (H, W) a picture has a colour that the picture of its source has not."""
    colour = np.ptp(over.viewport.astype(int), axis=2) > 40
    return colour & (np.abs(over.viewport.astype(int) - source.viewport).max(axis=2) > 40)


@contextmanager
def _opened(browser, address, study):
    """Give a page that shows the study's first series, and the list to which its errors are added."""
    page, said = browser.new_page(viewport={"width": 1280, "height": 800}), []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    # the tour of first use would cover the page
    page.add_init_script("localStorage.setItem('shownTours', JSON.stringify(['basicViewerTour']))")
    try:
        page.goto(f"{address}/viewer?StudyInstanceUIDs={study}")
        page.wait_for_function(READY, timeout=120_000)
        page.wait_for_timeout(1000)
        said.clear()
        yield page, said
    finally:
        page.close()


def _show(page, said, entry, path, peak, patience):
    """Load an entry, turn to the slice, and write its picture."""
    (uid,) = (e["id"] for e in page.evaluate(LISTED) if e["series"] == entry["series"])
    page.locator(f'[id="thumbnail-{uid}"]').dblclick()
    at, problem = None, None
    if entry["refused"]:
        page.wait_for_timeout(2000)
        problem = "OHIF does not support this object"
    elif not _settled(page, patience):
        problem = f"still loading after {patience} s"
    else:
        at = page.evaluate(TURN, peak and asdict(peak))
        page.wait_for_timeout(1500)
    page.mouse.move(380, 25)  # where nothing explains itself
    page.screenshot(path=path)
    if peak and entry["modality"] == "PMAP" and not problem:
        page.evaluate(WINDOW, peak.window)
        page.wait_for_timeout(1500)
        page.screenshot(path=path.with_stem(f"{path.stem}-window"))
        _reduce(path.with_stem(f"{path.stem}-window"))
    box = page.locator("[data-cy='viewport-pane']").first.bounding_box()
    left, top = round(box["x"]), round(box["y"])
    viewport = np.asarray(Image.open(path).convert("RGB"))
    _reduce(path)
    viewport = viewport[top : top + round(box["height"]), left : left + round(box["width"])]
    inner = viewport[60:-60, 60:-60]  # without the text of the corners
    if not problem and np.percentile(inner, 99) - np.percentile(inner, 1) < 20:
        problem = "the image area is empty"
    if problem and said:
        problem += f": {said[0].splitlines()[0][:120]}"
    return Shown(entry["modality"], entry["description"], problem, path, viewport, at and (round(at[1]), round(at[0])))


def _reduce(path):
    """Write a picture anew with 128 colours, in less than half the bytes."""
    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)


def _settled(page, patience):
    """Wait until nothing loads and the picture stands still, saying yes where OHIF asks; return whether it does."""
    before, end = None, time.monotonic() + patience
    page.wait_for_timeout(3000)
    while time.monotonic() < end:
        yes = page.get_by_role("button", name="Yes", exact=True)
        loading = page.locator("[data-cy='viewport-pane']").get_by_text("Loading")
        now = page.screenshot()
        if yes.count():
            yes.first.click()
        elif not loading.count() and now == before:
            return True
        before = now
        page.wait_for_timeout(1500)
    return False


def show(folder, output, dist=None):
    """Do as the command does; return `Shown` by Series Instance UID, over all studies."""
    if problem := missing(dist):
        raise FileNotFoundError(problem)
    paths = [p for p in sorted(Path(folder).rglob("*")) if p.is_file() and pydicom.misc.is_dicom(p)]
    if not paths:
        raise FileNotFoundError(f"no DICOM file below {folder}")
    studies = {}
    for path in paths:
        peaks = studies.setdefault(str(pydicom.dcmread(path, stop_before_pixels=True).StudyInstanceUID), [])
        peaks += [peak] if (peak := peak_of(path)) else []
    output.mkdir(parents=True, exist_ok=True)
    shown = {}
    with tempfile.TemporaryDirectory() as own, orthanc(Path(own)) as pacs, served(viewer(dist), pacs) as address:
        stow(pacs, paths)
        for number, (study, peaks) in enumerate(sorted(studies.items())):
            shown |= photograph(address, study, output, f"study{number}", peaks[0] if peaks else None)
    return shown


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="DICOM files, searched below; default: a made-up study")
    parser.add_argument("--output", type=Path, default=Path("pictures"), help="default: %(default)s")
    parser.add_argument("--viewer", type=Path, help="folder of the built viewer")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as own:
        folder = options.folder or make_study(Path(own))
        show(folder, options.output, options.viewer)


if __name__ == "__main__":
    main()
