"""The page of a run in a browser: a series of 300 made slices, each of which shows its number, with a planted map."""

import importlib.util
import io
import re
import shutil
import time

import nibabel as nib
import numpy as np
import pytest
from pacs.ohif import BROWSER
from PIL import Image

from invad_med.data.prediction import Prediction, Status
from invad_med.data.study import Verdict
from invad_med.inference.inputs import list_inputs
from invad_med.inference.progress import Progress
from invad_med.inference.results import SourceWriter
from invad_med.inference.studies import StudyJudge
from invad_med.readers.sources import read_source
from invad_med.writers.report.writer import ReportWriter

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MISSING = "chromium is not installed" if not CHROMIUM else ""
MISSING = "playwright is not installed" if importlib.util.find_spec("playwright") is None else MISSING
pytestmark = [pytest.mark.pacs, pytest.mark.skipif(bool(MISSING), reason=MISSING)]

SLICES, SIDE, HOT, LIMIT, THRESHOLD = 300, 320, 200, 2.0, 1.5
CENTRE, WIDTH = (90, 220), 25.0  # of the planted bump: row and column, standard deviation in pixels
EVIL = "<img src=x onerror=window.hit=1>"
DISTANCE = np.hypot(*np.meshgrid(np.arange(SIDE) - CENTRE[0], np.arange(SIDE) - CENTRE[1], indexing="ij"))


def made_map(index):
    """Return a map whose highest value, three times the threshold, lies in the middle of the hot slice."""
    height = 3.0 * LIMIT * max(0.0, 1 - abs(index - HOT) / 30)
    return (0.1 * LIMIT + height * np.exp(-0.5 * (DISTANCE / WIDTH) ** 2)).astype(np.float32)


def score_of(index):
    return round(0.3 * np.sin(index / 5) + 4.0 * max(0.0, 1 - abs(index - HOT) / 25), 4)


class Above:
    """A model that judges every stack abnormal."""

    rate = 0.05

    def judge_study(self, modality, scores, positions):
        return Verdict(score=3.0, threshold=THRESHOLD, p_value=0.01)


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """Return the output folder of a run over a volume and a picture with a wicked name."""
    base = tmp_path_factory.mktemp("page")
    rng = np.random.default_rng(0)
    grid = np.linspace(-1, 1, SIDE)
    volume = np.zeros((SLICES, SIDE, SIDE), np.float32)
    for i in range(SLICES):
        size = 0.5 + 0.4 * np.sin(np.pi * (i + 1) / SLICES)
        body = np.hypot(*np.meshgrid(grid, grid / 0.8)) < size
        volume[i] = body * (420 + 80 * np.sin(9 * grid)[:, None]) + rng.normal(0, 15, (SIDE, SIDE)) + 60
        volume[i, 300:, :] = 60
        volume[i, 300:, i : i + 20] = 900  # where this bar lies tells the slice
    (base / "in").mkdir()
    nib.save(nib.Nifti1Image(volume[:, ::-1, ::-1].T.astype(np.int16), np.eye(4)), base / "in" / "volume.nii.gz")
    Image.fromarray(rng.integers(0, 256, (64, 64), dtype=np.uint8)).save(base / "in" / f"{EVIL}.png")
    inputs = list_inputs(base / "in", ["phantom"], "phantom")
    judge = StudyJudge(Above())
    with SourceWriter(Progress(base / "out", inputs), judge=judge, report=ReportWriter()) as writer:
        for item in inputs.items:
            if item.index == 0:
                pieces = read_source(item.source)
            piece = pieces[item.index]
            many = item.source.n_slices > 1
            prediction = Prediction(
                item.source, item.index, Status.SCORED, None, "phantom", item.chosen_by,
                made_map(item.index) if many else np.zeros((64, 64), np.float32),
                score=score_of(item.index) if many else 0.1, threshold=THRESHOLD, p_value=0.01 if many else 0.7,
                map_threshold=LIMIT,
            )  # fmt: skip
            writer.take(prediction, piece)
    return base / "out"


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=BROWSER)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, run):
    """Return the page, opened; it must say nothing on its console and ask for nothing."""
    page, said, asked = browser.new_page(viewport={"width": 1280, "height": 1000}), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((run / "report.html").as_uri())
    shown(page, HOT)
    yield page
    assert not said and [url for url in asked if not url.startswith("data:")] == [(run / "report.html").as_uri()]
    page.close()


def shown(page, index):
    """Wait until a slice is drawn, and compare the picture's bar with its number."""
    page.wait_for_function("i => document.querySelector('#image').dataset.shown === String(i)", arg=index, timeout=5000)
    pixels = drawn(page)
    bar = pixels[int(0.965 * len(pixels)), :, 1].astype(int) > 150
    middle = np.flatnonzero(bar[3:-3]).mean() + 3  # without the edges, where the page shines through
    assert abs(middle * SIDE / pixels.shape[1] - min(index + 10, SIDE)) < 1.5, (middle, index)
    told = re.match(rf"slice {index + 1} of {SLICES} · score (\S+), ", page.inner_text("#readout"))
    assert float(told[1]) == pytest.approx(score_of(index), rel=0.005)
    return pixels


def drawn(page):
    """Return what the canvas shows, (H, W, 3) uint8, as a photograph of the page has it."""
    page.wait_for_timeout(80)
    return np.asarray(Image.open(io.BytesIO(page.locator("#image").screenshot())).convert("RGB"))


def slide(page, name, value):
    page.locator(f"#{name}").fill(str(value))


def coloured(pixels):
    return np.ptp(pixels.astype(int), axis=2) > 12


def expected_region(pixels, index, limit):
    """Return where the planted map exceeds a multiple of the threshold, on the grid of the photograph."""
    region = Image.fromarray((made_map(index) > limit * LIMIT).astype(np.uint8) * 255)
    return np.asarray(region.resize(pixels.shape[1::-1], Image.Resampling.BILINEAR)) > 127


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


def test_colour_lies_where_the_map_exceeds_the_threshold(page):
    for limit in (0.5, 1.0, 1.5, 2.0):
        slide(page, "threshold", limit)
        pixels = drawn(page)
        assert overlap(coloured(pixels), expected_region(pixels, HOT, limit)) > 0.8, limit
        assert page.inner_text("#threshold-value") == f"{limit:.2f} ×"
    slide(page, "threshold", 1)
    pixels = drawn(page)
    row, column = (round(c / SIDE * len(pixels)) for c in CENTRE)
    red, green, blue = pixels[row, column].astype(int)
    assert red > green > blue + 40  # yellow: three times the threshold
    outer = pixels[row, column + round(1.45 * WIDTH / SIDE * len(pixels))].astype(int)
    assert outer[0] > outer[1] and outer[2] > outer[1]  # purple: just above


def test_opacity_fades_the_map_and_leaves_the_slice(page):
    full = drawn(page)
    slide(page, "opacity", 0)
    bare = drawn(page)
    assert not coloured(bare).any() and page.inner_text("#opacity-value") == "0 %"
    outside = ~expected_region(full, HOT, 0.5)
    assert np.abs(full.astype(int) - bare)[outside].max() <= 6
    slide(page, "opacity", 30)
    faint = drawn(page)
    inside = expected_region(full, HOT, 1.4)
    away = [np.abs(p.astype(int) - bare)[inside].mean() for p in (faint, full)]
    assert 0.3 < away[0] / away[1] < 0.55  # 30 % to 70 %
    assert bare[len(bare) // 2, len(bare) // 2].mean() > 80 and bare[10, 10].mean() < 40


def test_wheel_keys_and_slider_turn_slices(page):
    page.locator("#image").hover()
    for step, index in ((120, 201), (120, 202), (-120, 201), (360, 204)):
        page.mouse.wheel(0, step)
        shown(page, index)
    slide(page, "slice", 11)
    shown(page, 10)
    page.locator("#image").focus()
    for key, index in (
        ("ArrowDown", 11), ("ArrowRight", 12), ("ArrowUp", 11), ("ArrowLeft", 10), ("PageDown", 20), ("PageUp", 10),
        ("PageUp", 0), ("End", 299), ("ArrowDown", 299), ("Home", 0), ("h", HOT), ("Home", 0), ("n", first_above()),
        ("n", first_above() + 1),
    ):  # fmt: skip
        page.keyboard.press(key)
        shown(page, index)


def first_above():
    return next(i for i in range(SLICES) if score_of(i) > THRESHOLD)


def test_a_ring_is_drawn_round_the_hottest_place(page):
    before = drawn(page)
    slide(page, "slice", 1)
    shown(page, 0)
    page.locator("#hottest").click()
    after = shown(page, HOT)
    rows, columns = np.nonzero((after.min(axis=2) > 240) & (before.min(axis=2) < 240))
    middle = np.array([rows.min() + rows.max(), columns.min() + columns.max()]) / 2 / len(after) * SIDE
    assert np.abs(middle - CENTRE).max() < 3


def test_the_curve_is_that_of_the_scores_and_leads_to_slices(page):
    box = page.locator("#curve").bounding_box()
    points = page.evaluate("""() => [...document.querySelectorAll('#curve circle')].map(
        c => [+c.attributes.cx.value, +c.attributes.cy.value, c.classList.contains('over')])""")
    scores = np.array([score_of(i) for i in range(SLICES)])
    assert len(points) == SLICES and [over for *_, over in points] == list(scores > THRESHOLD)
    x, y = np.array([p[:2] for p in points]).T
    assert np.corrcoef(y, scores)[0, 1] < -0.99999 and np.allclose(np.diff(x), np.diff(x)[0], atol=0.01)
    line = page.locator("#curve .limit").bounding_box()
    level = np.interp(THRESHOLD, np.sort(scores), y[np.argsort(scores)])
    assert abs(line["y"] + line["height"] / 2 - box["y"] - level) < 2
    for index in (50, 0, 299, 213):
        page.mouse.click(box["x"] + x[index], box["y"] + 20)
        shown(page, index)
        assert abs(page.locator("#here").bounding_box()["x"] - box["x"] - x[index]) < 2.5
    page.mouse.move(box["x"] + x[20], box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + x[90], box["y"] + 40)
    shown(page, 90)
    page.mouse.up()


def test_the_keyboard_alone_goes_from_study_to_study(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.hash") == "#study-1"
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outline) == "solid"
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.hash") == "#study-2"
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.activeElement.id === 'image'")
    page.wait_for_timeout(100)
    assert page.evaluate(outline) == "solid"
    assert page.locator("article:visible h2").inner_text() == EVIL
    assert "one image · score 0.1" in page.inner_text("#readout") and not page.locator("#curve").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    shown(page, HOT)
    assert page.locator("article:visible h2").inner_text() == "volume"
    assert page.locator("#image").get_attribute("aria-label").startswith("slice 201 of 300, score 4.22, above")
    for name in ("slice", "hottest", "above", "opacity", "threshold"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == name
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#threshold-value") == "1.05 ×"


def test_a_finger_turns_slices(browser, run):
    context = browser.new_context(viewport={"width": 420, "height": 900}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto((run / "report.html").as_uri())
    shown(page, HOT)
    page.locator("#image").scroll_into_view_if_needed()
    box = page.locator("#image").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 3
    finger = context.new_cdp_session(page)
    for kind, at in (("touchStart", y), ("touchMove", y + 20), ("touchMove", y + 40)):
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": at}]})
    finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    shown(page, HOT + 10)
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
    context.close()


def test_nothing_can_be_fetched_or_injected(browser, run):
    page = browser.new_page()
    page.goto((run / "report.html").as_uri())
    shown(page, HOT)
    refused = page.evaluate("""async () => {
        const seen = [];
        document.addEventListener('securitypolicyviolation', event => seen.push(event.effectiveDirective));
        const image = new Image();
        image.src = 'http://127.0.0.1:9/x.png';
        await fetch('http://127.0.0.1:9/').catch(() => {});
        const script = document.createElement('script');
        script.textContent = 'window.hit = 2';
        document.body.append(script);
        document.body.insertAdjacentHTML('beforeend', '<p onclick="window.hit = 3">x</p>');
        document.body.lastElementChild.click();
        await new Promise(done => setTimeout(done, 200));
        return seen;
    }""")
    assert {"img-src", "connect-src", "script-src-elem", "script-src-attr"} <= set(refused)
    assert page.evaluate("window.hit") is None
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_in_light_and_dark(browser, run, scheme):
    page = browser.new_page(viewport={"width": 1280, "height": 1000}, color_scheme=scheme)
    page.goto((run / "report.html").as_uri())
    shown(page, HOT)
    pairs = page.evaluate("""() => [...document.querySelectorAll('body *')]
        .filter(e => !e.children.length)
        .filter(e => e.offsetParent && e.textContent.trim())
        .map(e => {
            let back = e;
            while (getComputedStyle(back).backgroundColor === 'rgba(0, 0, 0, 0)') back = back.parentElement;
            return [getComputedStyle(e).color, getComputedStyle(back).backgroundColor];
        })""")
    assert len(pairs) > 30 and min(contrast(*pair) for pair in pairs) >= 4.5  # WCAG 2.2, AA
    corner = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("L"))[-5, 5]
    assert (corner < 60) == (scheme == "dark")
    page.close()


def contrast(one, two):
    """Return the ratio of luminances of two colours, as WCAG defines it."""
    light = []
    for colour in (one, two):
        parts = [int(word) / 255 for word in colour[4:-1].split(",")]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        light.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)
    return max(light) / min(light)


def test_300_slices_open_quickly_and_stay_below_15_mb(browser, run, record_property):
    size = (run / "report.html").stat().st_size
    page = browser.new_page()
    begun = time.monotonic()
    page.goto((run / "report.html").as_uri())
    page.wait_for_function("() => document.querySelector('#image').dataset.shown !== undefined")
    seconds = time.monotonic() - begun
    page.close()
    print(f"report.html of 300 slices: {size / 1e6:.2f} MB, first picture after {seconds:.2f} s")
    assert size < 15e6 and seconds < 10
