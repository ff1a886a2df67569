"""What is odd about masks: labels absent or exchanged, areas that no heart has, borders beside the edges of the images.

Thresholds stand far from what right data gave (cine MRI of two challenges, late enhancement, phantoms; all labels,
myocardium or RV alone), and from drawn shapes and noise: a false alarm is worse than a miss.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_gradient_magnitude, uniform_filter
from scipy.signal import correlate

from prr.data.labels import canonical

RV, MYO, LV = "RV cavity", "myocardium", "LV cavity"
SHORT = {LV: "LV", MYO: "MYO", RV: "RV"}  # as a map of labels writes them
AREAS_CM2 = {RV: (4, 90), MYO: (4, 60), LV: (2.5, 80)}  # medians of real sets: 25 to 30, 17 to 22, 15 to 19
ENCLOSED, OPEN = 0.75, 0.25  # the LV cavity is enclosed to 1.00; nothing else of a heart to more than 0.46
FEWEST, ENOUGH = 4, 20  # slices to tell by where masks lie
PIXELS = 160  # an image is shrunk until its longer side has fewer than twice as many
REACH = 32  # how far a shift is looked for, in pixels of the shrunk image
NEAR = 2  # of them: annotators differ by as much
FIT = 0.05  # the least that is believed: right masks fit by 0.07 to 0.20, misplaced ones by less than 0.03
SHORTEST = 40  # pixels of border: fewer lie on edges by chance
BESIDE = ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:]))  # pixels and their neighbours along each axis

# What misplaced masks need: where their points (n, 2) go, in an image whose last pixel is `end`, with pixels of `mm`.
MOVES = {
    "mirrored along the first axis": lambda at, end, mm: end * (1, 0) - at * (1, -1),
    "mirrored along the second axis": lambda at, end, mm: end * (0, 1) - at * (-1, 1),
    "mirrored along both axes": lambda at, end, mm: end - at,
    "transposed": lambda at, end, mm: at[:, ::-1],
    "transposed, then mirrored along the first axis": lambda at, end, mm: end * (1, 0) - at[:, ::-1] * (1, -1),
    "transposed, then mirrored along the second axis": lambda at, end, mm: end * (0, 1) - at[:, ::-1] * (-1, 1),
    "transposed, then mirrored along both axes": lambda at, end, mm: end - at[:, ::-1],
    "divided by the spacing, as contours in mm have to be": lambda at, end, mm: at / mm,
    "multiplied by the spacing": lambda at, end, mm: at * mm,
}


class Sample(NamedTuple):
    """One slice of a volume, and its mask."""

    image: np.ndarray  # (h, w) float, as stored
    mask: np.ndarray  # (h, w) labels
    spacing: tuple[float, float]  # mm between rows, between columns
    where: Path | str


def odd(samples: Sequence[Sample], labels: Mapping[int, str]) -> list[str]:
    """What is odd about masks, a sentence each that says what was seen and what to do.

    Args:
        samples: a slice of each volume, that with most foreground.
        labels: {value: name}, a heart's in their usual spellings; other values in a mask don't count.

    Returns:
        Sentences; none where nothing is odd.

    Example:
        >>> import numpy as np
        >>> from prr.data.plausible import Sample, odd
        >>> mask = np.zeros((40, 40), np.uint8)
        >>> mask[8:32, 8:32], mask[12:28, 12:28], mask[8:32, :7] = 2, 1, 3
        >>> odd([Sample(mask, mask, (2, 2), "mine")], {1: "RV", 2: "MYO", 3: "LV"})
        ['RV (1) is enclosed by MYO (2) along 100 % of its border, ...map labels="LV=1 MYO=2 RV=3"']
    """
    labels = {value: name for value, name in labels.items() if value}
    if not samples or not labels:
        return []
    heart = {canonical(name): value for value, name in labels.items() if canonical(name) in SHORT}
    found = absent(samples, labels, heart) + exchanged(samples, labels, heart)
    return found + sizes(samples, labels, heart) + misplaced(samples, labels)


def absent(samples: Sequence[Sample], labels: Mapping[int, str], heart: Mapping[str, int]) -> list[str]:
    """Labels that occur in no mask. A lesion may be rare: of others than a heart's, only a binary mask is odd."""
    there = [value for value in labels if any(value in sample.mask for sample in samples)]
    missing = [value for value in labels if value not in there]
    binary = len(there) == 1 and len(samples) >= ENOUGH
    if not missing or not (binary or not there or set(missing) & set(heart.values())):
        return []
    never = f"{_named(labels, missing)} in none of {len(samples)} slices"
    if not there:
        return [f"{never}, which have no label at all; map labels to the values that the masks hold"]
    seen = "one label only, called" if len(there) == 1 else "the labels"
    guess = "LV" if heart.get(LV) in missing else labels[missing[0]]
    advice = f'if a label is something else, say so, such as labels="{guess}={there[0]}"'
    return [f"{seen} {_named(labels, there)}, and {never}; {advice}"]


def exchanged(samples: Sequence[Sample], labels: Mapping[int, str], heart: Mapping[str, int]) -> list[str]:
    """Myocardium encloses the LV cavity: another label that is enclosed, in its stead, is the LV cavity."""
    sides = [_sides(sample.mask, labels) for sample in samples]
    enclosed = {
        (inner, wall): float(np.median(shares))
        for inner, wall in permutations(heart, 2)
        if (shares := [np.mean(b[a == heart[inner]] == heart[wall]) for a, b in sides if heart[inner] in a])
    }
    own = enclosed.pop((LV, MYO), None)
    if MYO not in heart or not enclosed or (own is not None and own > ENCLOSED):
        return []
    (inner, wall), share = max(enclosed.items(), key=lambda pair: pair[1])
    known = [] if own is None else [_enclosed(labels, heart[LV], heart[MYO], own)]
    if share > ENCLOSED:
        rest = [name for name in heart if name not in (inner, wall)]
        order = zip((LV, MYO, RV), (inner, wall, *rest), strict=False)
        pairs = " ".join(f"{SHORT[name]}={heart[called]}" for name, called in order)
        seen = ", ".join([_enclosed(labels, heart[inner], heart[wall], share), *known])
        return [f'{seen}; it is the LV cavity that myocardium encloses, so map labels="{pairs}"']
    if known and own < OPEN:
        return [f"{known[0]}, expected nearly 100 %; map labels to what they are"]
    return []


def sizes(samples: Sequence[Sample], labels: Mapping[int, str], heart: Mapping[str, int]) -> list[str]:
    """Areas of a heart's parts, in the slice of each volume that shows most of it."""
    wrong = []
    for name, value in heart.items():
        areas = [np.sum(each.mask == value) * np.prod(each.spacing) / 100 for each in samples if value in each.mask]
        low, high = AREAS_CM2[name]
        if areas and not low <= np.median(areas) <= high:
            wrong.append(f"{_named(labels, [value])} {np.median(areas):.2g} cm2, expected {low:g} to {high:g}")
    if not wrong:
        return []
    mm = " x ".join(f"{length:g}" for length in np.median([each.spacing for each in samples], axis=0))
    return [f"median area in a slice: {', '.join(wrong)}; check the spacing, {mm} mm, and what the labels are"]


class Lie(NamedTuple):
    """What tells where a mask lies, in a shrunk image."""

    edges: np.ndarray  # (h, w) how strong an edge is among all of the image, less the mean around
    border: np.ndarray  # (n, 2) pixels on either side of a border of labels
    end: np.ndarray  # the last pixel
    mm: np.ndarray  # spacing of the file

    def moved(self, move: str) -> np.ndarray | None:
        """The border after a move, to whole pixels; None where the image does not hold it."""
        at = np.rint(MOVES[move](self.border, self.end, self.mm)).astype(int)
        inside = ((at >= 0) & (at <= self.end)).all(axis=1)
        return at[inside] if inside.mean() > 0.98 else None

    def fit(self, at: np.ndarray) -> float:
        """How much stronger edges are at these pixels than around them: 0 by chance, at most 1."""
        return float(self.edges[tuple(at.T)].mean())

    def fits_around(self, at: np.ndarray) -> np.ndarray:
        """(2 REACH + 1, 2 REACH + 1) fits after each shift of these pixels."""
        first, last = at.min(axis=0), at.max(axis=0)
        border = np.zeros(last - first + 1, np.float32)
        border[tuple((at - first).T)] = 1
        rows, columns = (slice(low, high + 2 * REACH + 1) for low, high in zip(first, last, strict=True))
        return correlate(np.pad(self.edges, REACH)[rows, columns], border, "valid", "fft") / border.sum()


def misplaced(samples: Sequence[Sample], labels: Mapping[int, str]) -> list[str]:
    """Borders that lie beside the edges of the images, and on them once all are moved in the same way."""
    some = np.unique(np.linspace(0, len(samples) - 1, ENOUGH).round().astype(int))
    step = max(1, int(np.median([max(samples[k].mask.shape) for k in some])) // PIXELS)
    lies = [lie for k in some if (lie := _lie(samples[k], labels, step))]
    stored = np.array([lie.fit(lie.border) for lie in lies])
    if len(lies) < FEWEST or np.median(stored) > 2 * FIT:
        return []
    needed = max(FIT * (1 + FEWEST / len(lies)), 2.5 * np.median(stored))
    for how, borders in (_best_move(lies), ("", [lie.border for lie in lies])):
        shift, fits = _peak([lie.fits_around(at) for lie, at in zip(lies, borders, strict=True)])
        better, near = fits > stored, np.abs(shift).max() <= NEAR
        if near == bool(how) and np.median(fits) > needed and better.mean() >= 0.8:
            how = how or "moved by {} pixels along the first axis and {} along the second".format(*shift * step)
            return [
                f"borders of masks lie beside the edges of the images, and on them if masks are {how} (edges stand out "
                f"by {np.median(fits):.2f} there, by {np.median(stored):.2f} as stored; {better.sum()} of {len(lies)} "
                "slices agree); look at some, then correct the masks or their affines"
            ]
    return []


def _best_move(lies: Sequence[Lie]) -> tuple[str, list[np.ndarray]]:
    """The move after which borders fit best, and the borders after it."""
    moved = {how: [lie.moved(how) for lie in lies] for how in MOVES}
    moved = {how: borders for how, borders in moved.items() if all(at is not None for at in borders)}
    fits = {how: np.median([lie.fit(at) for lie, at in zip(lies, moved[how], strict=True)]) for how in moved}
    best = max(fits, key=fits.get)
    return best, moved[best]


def _peak(maps: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The shift that fits best in the mean, and each map's fit there: 0 where another shift fits half as well."""
    mean = np.mean(maps, axis=0)
    at = np.unravel_index(mean.argmax(), mean.shape)
    rest = mean.copy()
    rest[tuple(slice(max(0, k - 3 * NEAR), k + 3 * NEAR + 1) for k in at)] = 0
    alone = rest.max() < mean[at] / 2
    return np.array(at) - REACH, np.array([each[at] * alone for each in maps])


def _lie(sample: Sample, labels: Mapping[int, str], step: int) -> Lie | None:
    """A sample shrunk `step` times; None where its borders are too short to tell."""
    if min(sample.mask.shape) < step:
        return None
    height, width = (n // step for n in sample.mask.shape)
    whole = (slice(height * step), slice(width * step))
    image = np.asarray(sample.image, np.float32)[whole].reshape(height, step, width, step).mean(axis=(1, 3))
    mask = sample.mask[whole][::step, ::step]
    known, border = np.isin(mask, [0, *labels]), np.zeros(mask.shape, bool)
    for one, other in BESIDE:
        side = (mask[one] != mask[other]) & known[one] & known[other]
        border[one] |= side
        border[other] |= side
    if border.sum() < SHORTEST or not np.isfinite(image).all():
        return None
    return Lie(_edges(image), np.argwhere(border), np.array(mask.shape) - 1, np.array(sample.spacing))


def _edges(image: np.ndarray) -> np.ndarray:
    """(h, w) the share of pixels with a weaker edge than here, less the mean around: contrast doesn't matter.

    Flat pixels, as around what was cut out of an image, have no edge and are not counted.
    """
    level = np.sqrt(gaussian_gradient_magnitude(image, 1.0))
    bins = (level * (1023 / max(level.max(), 1e-30))).astype(np.uint16)
    counts = np.bincount(bins.ravel(), minlength=1024)
    counts[0] = 0
    weaker = ((counts.cumsum() - counts / 2) / max(counts.sum(), 1)).astype(np.float32)[bins]  # half of the equal ones
    return weaker - uniform_filter(weaker, 13, mode="nearest")


def _sides(mask: np.ndarray, labels: Mapping[int, str]) -> tuple[np.ndarray, np.ndarray]:
    """The labels on the one and on the other side of each border between two pixels, each border from both sides."""
    pairs = [(mask[one], mask[other]) for one, other in BESIDE]
    pairs = [(a[a != b], b[a != b]) for a, b in pairs]
    one, other = np.concatenate(pairs, axis=1)
    known = np.isin(one, [0, *labels]) & np.isin(other, [0, *labels])
    one, other = one[known], other[known]
    return np.concatenate([one, other]), np.concatenate([other, one])


def _enclosed(labels: Mapping[int, str], inner: int, wall: int, share: float) -> str:
    return f"{_named(labels, [inner])} is enclosed by {_named(labels, [wall])} along {100 * share:.0f} % of its border"


def _named(labels: Mapping[int, str], values: Collection[int]) -> str:
    return ", ".join(f"{labels[value]} ({value})" for value in labels if value in values)
