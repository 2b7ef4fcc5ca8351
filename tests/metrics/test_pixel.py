"""Pixel figures against scikit-learn and loops; the stated bounds hold; parts merge; a quarter of a billion pixels."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from invad_med.metrics.pixel import PixelCounts, codes, group_counts, lower_edges, pixel_figures
from invad_med.metrics.regions import region_weights

RNG = np.random.default_rng(1)


def masks(n=6, size=16):
    found = np.zeros((n, size, size), dtype=bool)
    for k in range(1, n):
        for _ in range(3):
            i, j = RNG.integers(0, size - 6, 2)
            found[k, i : i + RNG.integers(1, 6), j : j + RNG.integers(1, 6)] = True
    return found


MASKS = masks()
MAPS = {
    "random": RNG.normal(size=MASKS.shape).astype(np.float32) + MASKS,
    "positive": np.abs(RNG.normal(size=MASKS.shape)) + 2 * MASKS,
    "tied": (RNG.integers(0, 4, MASKS.shape) + MASKS).astype(np.float32),
    "constant": np.ones(MASKS.shape, np.float32),
    "huge": (RNG.normal(size=MASKS.shape) + MASKS) * 1e37,
    "tiny": (RNG.normal(size=MASKS.shape) + MASKS) * 1e-36,
    "almost equal": 1.0 + 1e-7 * (RNG.normal(size=MASKS.shape) + MASKS),  # within one bin
}


def counted(maps, truth=MASKS):
    counts = PixelCounts()
    images = [counts.add(m, t) for m, t in zip(maps, truth, strict=True)]
    return counts, images


def flood(mask):
    """Regions by a stack, independent of scipy."""
    left, regions = {tuple(p) for p in np.argwhere(mask)}, []
    while left:
        stack, region = [left.pop()], []
        while stack:
            i, j = stack.pop()
            region.append((i, j))
            for near in [(i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1)]:
                if near in left:
                    left.remove(near)
                    stack.append(near)
        regions.append(region)
    return regions


def aupro_by_loop(maps, truth, limit=0.3):
    """Every threshold, every region, one after the other."""
    regions = [(k, *np.array(region).T) for k, mask in enumerate(truth) for region in flood(mask)]
    curve = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        above = maps >= threshold
        overlap = [above[k, i, j].sum() / len(i) for k, i, j in regions]
        curve.append((above[~truth].mean(), float(np.mean(overlap))))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(curve):
        if x0 >= limit:
            break
        end = min(x1, limit)
        y = y0 + (y1 - y0) * (end - x0) / (x1 - x0) if x1 > x0 else y1
        area += (end - x0) * (y0 + y) / 2
    return area / limit


@pytest.mark.parametrize("name", MAPS)
def test_against_scikit_learn_and_a_loop(name):
    maps, truth = MAPS[name], MASKS.ravel()
    counts, _ = counted(maps)
    figures, bounds = counts.figures(), counts.error_bounds()
    flat = maps.ravel()
    precision, recall, _ = precision_recall_curve(truth, flat)
    references = {
        "auroc": roc_auc_score(truth, flat),
        "ap": average_precision_score(truth, flat),
        "f1max": (2 * precision * recall / np.maximum(precision + recall, 1e-300)).max(),
        "aupro": aupro_by_loop(maps, MASKS),
    }
    for key, reference in references.items():
        assert abs(figures[key] - reference) <= bounds[key] + 1e-12, key
    if name in ("tied",):  # representable values: exact
        for key, reference in references.items():
            assert figures[key] == pytest.approx(reference, abs=1e-12), key


def test_bounds_are_small_where_values_differ():
    counts, _ = counted(MAPS["positive"])
    assert all(bound < 1e-3 for bound in counts.error_bounds().values())


def test_rounded_values_are_exact():
    maps = lower_edges(codes(MAPS["positive"]))
    figures = counted(maps)[0].figures()
    assert figures["auroc"] == pytest.approx(roc_auc_score(MASKS.ravel(), maps.ravel()), abs=1e-12)
    assert figures["ap"] == pytest.approx(average_precision_score(MASKS.ravel(), maps.ravel()), abs=1e-12)
    assert figures["aupro"] == pytest.approx(aupro_by_loop(maps, MASKS), abs=1e-12)


def test_bins_sort_as_numbers_do():
    values = np.array([-np.inf, -1e30, -1.0, -1e-30, -0.0, 0.0, 1e-30, 1.0, 1.0001, 1e30, np.inf], np.float32)
    found = codes(values)
    assert (np.diff(found.astype(np.int64)) >= 0).all() and found[4] == found[5] and found[7] < found[8]
    finite = values[1:-1]
    assert (lower_edges(codes(finite)) <= finite).all()
    with pytest.raises(ValueError, match="1 of 2 pixels of an anomaly map are NaN"):
        codes(np.array([1.0, np.nan]))


def test_regions_are_eight_connected():
    mask = np.zeros((6, 6), bool)
    mask[0, 0] = mask[1, 1] = mask[4, 4:] = True
    weights, count = region_weights(mask)
    assert count == 2 and weights[0, 0] == 0.5 and weights[4, 5] == 0.5 and weights.sum() == 2
    assert sum(len(flood(m)) for m in MASKS) == sum(region_weights(m)[1] for m in MASKS)


def test_one_class_has_no_figure():
    empty = np.zeros((2, 8, 8), bool)
    for truth in (empty, ~empty):
        counts, _ = counted(RNG.normal(size=truth.shape), truth)
        assert set(counts.figures().values()) == {None} and counts.error_bounds() == {}
    assert set(PixelCounts().figures().values()) == {None}


def test_padding_does_not_count():
    maps, valid = MAPS["random"], np.zeros(MASKS.shape[1:], bool)
    valid[:, :10] = True
    counts = PixelCounts()
    for values, mask in zip(maps, MASKS, strict=True):
        counts.add(np.where(valid, values, np.nan), mask, valid)
    cut, _ = counted(maps[:, :, :10], MASKS[:, :, :10])
    assert counts.figures() == cut.figures()


def test_parts_merge_to_the_whole():
    whole, _ = counted(MAPS["random"])
    a, _ = counted(MAPS["random"][:2], MASKS[:2])
    b, _ = counted(MAPS["random"][2:], MASKS[2:])
    merged = PixelCounts().merge(b).merge(a)
    assert (merged.positive == whole.positive).all() and (merged.negative == whole.negative).all()
    assert merged.figures() == pytest.approx(whole.figures(), abs=1e-12) and merged.regions == whole.regions


def test_unread_masks_are_refused():
    with pytest.raises(ValueError, match="found values up to 255"):
        PixelCounts().add(np.zeros((2, 2)), np.full((2, 2), 255))
    with pytest.raises(ValueError, match=r"map \(2, 2\) and mask \(3, 3\)"):
        PixelCounts().add(np.zeros((2, 2)), np.zeros((3, 3)))


@pytest.mark.parametrize("name", ["random", "positive", "tied", "constant"])
def test_group_counts_stay_within_their_bound(name):
    counts, images = counted(MAPS[name])
    binned = group_counts(images, np.array([0, 0, 1, 1, 2, 2]), bins=256)
    rough = pixel_figures(*(getattr(binned, k).sum(0) for k in ("positive", "negative", "regional")))
    for key, value in rough.items():
        fine = counts.figures()[key]
        assert abs(value - fine) <= binned.error_bounds[key] + counts.error_bounds()[key] + 1e-6, key
    assert binned.positive.shape[0] == 3 and binned.positive.sum() == MASKS.sum()
    assert binned.regional.sum() == pytest.approx(counts.regions)


BIG = """
import resource, time
import numpy as np
from invad_med.metrics.bootstrap import resample_weights
from invad_med.metrics.pixel import PixelCounts, group_counts, pixel_figures
n, size = 3815, 256
rng = np.random.default_rng(0)
counts, images = PixelCounts(), []
low = rng.gamma(4.0, 0.25, (64, 16, 16)).astype(np.float32)
spent = 0.0
for k in range(n):
    values = np.kron(low[k % 64], np.ones((16, 16), np.float32)) + rng.normal(0, 0.1, (size, size)).astype(np.float32)
    mask = np.zeros((size, size), bool)
    if k % 2:
        i, j = rng.integers(0, 200, 2)
        mask[i : i + 40, j : j + 40] = True
        values[mask] += 0.5
    start = time.perf_counter()
    images.append(counts.add(values, mask))
    spent += time.perf_counter() - start
start = time.perf_counter()
figures, bounds = counts.figures(), counts.error_bounds()
binned = group_counts(images, np.arange(n) // 4)
weights = resample_weights(n // 4 + 1, 1000)
tables = [getattr(binned, key) for key in ("positive", "negative", "regional")]
for part in np.array_split(weights, 20):
    pixel_figures(*(part @ t for t in tables))
boot = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(f"pixels {n * size * size} count {spent:.1f} s figures and 1000 resamples {boot:.1f} s peak {peak:.2f} GiB")
print({k: float(f"{v:.2g}") for k, v in bounds.items()}, {k: float(f"{v:.2g}") for k, v in binned.error_bounds.items()})
assert peak < 4.0 and max(bounds.values()) < 1e-4
"""


@pytest.mark.slow
def test_a_quarter_of_a_billion_pixels_in_four_gigabytes():
    done = subprocess.run([sys.executable, "-c", BIG], capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
