"""A short-axis heart in its chest, drawn: what the phantoms show.

All geometry is in mm around the centre of the left ventricle (LV), x to the viewer's right, y down, as a
short-axis view is shown: right ventricle (RV) on the left, diaphragm below. `t` runs along the heart from its
base (0) to its apex (1). Organs are smooth closed curves, painted back to front; a pixel takes each organ in
proportion to how much of it the organ covers. Sizes follow the usual adult ranges and are checked, label by
label, against the areas in ACDC; every other number only has to look right.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

TISSUES = ("air", "fat", "muscle", "lung", "liver", "blood", "myocardium", "marrow")

# ACDC's groups: LV radius and wall at end-diastole, mm; LV radius at end-systole / end-diastole; RV area
# (1: normal) and its ratio.
GROUPS = {
    "NOR": (25.5, 7.5, 0.70, 1.00, 0.62),
    "DCM": (34.0, 7.5, 0.90, 1.05, 0.75),
    "HCM": (24.0, 11.5, 0.62, 0.85, 0.58),
    "MINF": (29.0, 8.0, 0.85, 0.90, 0.66),
    "RV": (25.5, 7.5, 0.76, 1.55, 0.80),
}


class Curve(NamedTuple):
    """A closed curve in each of n slices: an ellipse, its radius modulated by low harmonics of the angle."""

    x: np.ndarray | float  # centre, mm, (n, 1, 1) or the same in each slice
    y: np.ndarray | float
    a: np.ndarray | float  # half axes, mm
    b: np.ndarray | float
    angle: float = 0.0  # of the first half axis
    shape: tuple[complex, ...] = ()  # harmonics 2, 3, ...

    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(n, h, w) mm along the ray from the centre, negative inside."""
        dx, dy = x - np.float32(self.x), y - np.float32(self.y)
        c, s = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        a, b = np.float32(np.maximum(self.a, 1e-3)), np.float32(np.maximum(self.b, 1e-3))
        u = (c * dx + s * dy) / a
        v = (c * dy - s * dx) / b
        rho = np.sqrt(u * u + v * v) + np.float32(1e-6)
        wobble: np.ndarray | float = np.float32(1)
        if self.shape:
            unit = (u + np.complex64(1j) * v) / rho
            total: np.ndarray | np.complex64 = np.complex64(0)
            for coefficient in reversed((0, *self.shape)):  # Horner; harmonic 1 would only shift the centre
                total = (total + np.complex64(coefficient)) * unit
            wobble = 1 + total.real
        radius = np.sqrt(dx * dx + dy * dy)
        return radius - radius / rho * wobble

    def points(self, count: int) -> np.ndarray:
        """(n, count, 2) x and y on the curve, mm; centre and half axes must be (n, 1, 1)."""
        unit = np.exp(2j * np.pi * np.arange(count) / count)
        wobble = 1 + sum((c * unit ** (k + 2)).real for k, c in enumerate(self.shape))
        z = (self.a[:, 0] * unit.real + 1j * self.b[:, 0] * unit.imag) * wobble
        z = z * np.exp(1j * self.angle) + (self.x + 1j * self.y)[:, 0]
        return np.stack([z.real, z.imag], axis=-1)


@dataclass(frozen=True)
class Anatomy:
    """One patient: what does not change with slice and phase. Lengths in mm."""

    group: str
    radius: float  # LV cavity, mid-ventricle, end-diastole
    wall: float
    squeeze: float  # LV radius at end-systole / end-diastole
    rv: float  # RV area, 1 for the mean of normal hearts
    rv_squeeze: float  # RV area at end-systole / end-diastole
    bearing: float  # direction of the RV from the LV, rad
    uneven: complex  # shift of the cavity within its wall: one side thick, the other thin
    shapes: tuple[tuple[complex, ...], ...]  # harmonics of LV cavity, LV outside, RV, body, liver
    papillary: tuple[float, float]
    body: np.ndarray  # random numbers around 0 for the chest
    fat: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Anatomy":
        group = str(rng.choice(list(GROUPS)))
        radius, wall, squeeze, rv, rv_squeeze = GROUPS[group]
        size = rng.normal(1, 0.07)
        wall *= size * rng.normal(1, 0.10)
        lopsided = {"HCM": 0.25, "MINF": 0.25}.get(group, 0.12) * wall * rng.uniform(0.3, 1)

        def harmonics(amplitude: float) -> np.ndarray:
            return amplitude / np.arange(2, 5) * (rng.normal(size=3) + 1j * rng.normal(size=3))

        outside = harmonics(0.07)
        shapes = (outside + harmonics(0.035), outside, *(harmonics(a) for a in (0.10, 0.05, 0.08)))
        return cls(
            group,
            radius * size * rng.normal(1, 0.06),
            wall,
            min(squeeze * rng.normal(1, 0.06), 0.96),
            rv * size**2 * rng.normal(1, 0.12),
            min(rv_squeeze * rng.normal(1, 0.08), 0.95),
            np.deg2rad(rng.normal(152, 12)),
            lopsided * np.exp(2j * np.pi * rng.random()),
            tuple(tuple(shape.tolist()) for shape in shapes),
            (rng.normal(0.55, 0.25), rng.normal(2.45, 0.25)),
            rng.uniform(-1, 1, 24),
            rng.uniform(7, 30),
        )

    def curves(self, t: np.ndarray, systole: bool) -> dict[str, Curve]:
        """LV cavity, LV outside and RV in the slices at `t`, (n,)."""
        if systole:  # the base comes down towards the apex, which stays
            t = (t - 0.05) / 0.95
        t = t[:, None, None]
        taper = np.sqrt(np.clip(1 - np.clip(t, 0, 1) ** 3.3, 0, None))
        # The wall closes over the apex.
        cap = np.sqrt(np.clip(1 - (np.clip(t - 0.97, 0, None) / 0.10) ** 2, 0, None))
        endo, wall = self.radius * taper, self.wall * cap * (1.1 - 0.25 * t)
        epi = endo + wall
        rv = self.rv * np.clip(1.02 - t, 0, None) * (1 + 0.35 * np.clip(0.35 - t, 0, None))
        if systole:  # muscle keeps its volume in a shorter heart, so its area grows
            muscle = epi**2 - endo**2
            endo = endo * self.squeeze * (1 - 0.15 * np.clip(t, 0, 1) ** 2)
            epi, rv = np.sqrt(endo**2 + 1.18 * muscle), rv * self.rv_squeeze
        below = t >= 0  # above the valves there is no ventricle
        endo, epi, rv = endo * below, epi * below, np.sqrt(rv) * below
        bearing = self.bearing + 0.25 * (t - 0.5)
        away = epi * 0.80 + 9 * rv
        x, y = away * np.cos(bearing), away * np.sin(bearing)
        inside, outside, right, *_ = self.shapes
        return {
            "endo": Curve(self.uneven.real * taper, self.uneven.imag * taper, endo, endo, 0.0, inside),
            "epi": Curve(0 * t, 0 * t, epi, epi, 0.0, outside),
            "rv": Curve(x, y, 33 * rv, 45 * rv, self.bearing, right),
        }


class Stack(NamedTuple):
    """The slices to draw."""

    t: np.ndarray  # (n,) from base to apex
    x: np.ndarray  # (1, h, w) of pixel centres, mm
    y: np.ndarray
    pixel: float  # mm
    grain: np.ndarray  # (n, h, w) noise of unit variance, smooth over mm: roughens edges, sows vessels


class Scene(NamedTuple):
    """What a scanner would see in n slices."""

    fractions: np.ndarray  # (tissues, n, h, w), adding up to 1
    masks: np.ndarray  # (n, h, w) uint8 labels
    cavity: np.ndarray  # (n, h, w) mm to the edge of the RV cavity, negative inside


Layers = list[tuple[str, np.ndarray]]  # tissue and the share of each pixel that it covers, back to front


def cover(distance: np.ndarray, stack: Stack) -> np.ndarray:
    """Share of each pixel inside a curve; a thick slice blurs what runs obliquely through it: the apex."""
    edge = (1.2 * stack.pixel + 2.5 * np.clip(stack.t, 0, 1) ** 2).astype(np.float32)[:, None, None]
    return np.clip(0.5 - distance / edge, 0, 1)


def draw_heart(anatomy: Anatomy, curves: Mapping[str, Curve], chest: Layers, stack: Stack) -> Scene:
    """The heart with these `curves` in front of its chest."""
    endo, epi, rv = (curves[name].distance(stack.x, stack.y) for name in ("endo", "epi", "rv"))
    rough = np.clip(stack.grain, 0, 1.5)  # trabeculae: muscle that labels count as cavity
    heart = [
        ("fat", np.minimum(rv - 5, epi - 3) - 2 * stack.grain),
        ("myocardium", rv - 3),
        ("blood", rv + 4 * rough),
        ("myocardium", epi),
        ("blood", endo + 2.5 * rough),
    ]
    x, y, a, *_ = curves["endo"]
    size = np.where((stack.t > 0.30) & (stack.t < 0.78), 0.19, 0.0)[:, None, None] * a + 0.02
    for angle in anatomy.papillary:
        muscle = Curve(x + 0.70 * a * np.cos(angle), y + 0.70 * a * np.sin(angle), 1.3 * size, size, angle)
        heart.append(("myocardium", muscle.distance(stack.x, stack.y) + 0.5 * rough))
    masks = np.select([endo < 0, epi < 0, rv < 0], [3, 2, 1], 0).astype(np.uint8)
    layers = chest + [(tissue, cover(distance, stack)) for tissue, distance in heart]
    return Scene(_composite(layers), masks, np.maximum(rv, -epi))


def draw_chest(anatomy: Anatomy, stack: Stack) -> Layers:
    """What lies behind the heart, the same in both phases."""
    t, x, y, grain = stack.t[:, None, None], stack.x, stack.y, stack.grain
    r, (*_, outline, dome) = anatomy.body, anatomy.shapes
    layers: Layers = []

    def paint(tissue: str, distance: np.ndarray) -> None:
        layers.append((tissue, cover(distance, stack)))

    def organ(x0, y0, a, b, angle=0.0, shape=outline) -> np.ndarray:
        return Curve(x0, y0, a, b, angle, shape).distance(x, y)

    skin = organ(-35 - 20 * t + 8 * r[0], 40 + 8 * t + 8 * r[1], 155 + 12 * r[2], 130 + 10 * r[3], 0.2 * r[4])
    wall = skin + anatomy.fat
    paint("fat", skin)
    paint("muscle", wall + 1.5 * grain)
    ribs = np.cos((7 + 2 * r[5]) * np.arctan2(y - 30, x + 30) + 6 * r[6]).astype(np.float32)
    paint("marrow", np.maximum(np.abs(wall + 8) - 3.5, 6 * (0.55 - ribs)))
    paint("fat", wall + 14)
    paint("lung", wall + 16 + grain)
    paint("blood", np.maximum(wall + 22, 3 * (2.1 - grain)))

    middle = organ(-78 + 8 * r[7], 5 + 10 * r[8], 42 + 6 * r[9], 62 + 8 * r[10], 0.3 * r[11], dome) + grain
    strands = np.abs(np.sin((x + 0.4 * y) / 21 + 3 * r[0] + 0.15 * grain)).astype(np.float32)
    paint("fat", middle)
    paint("muscle", np.maximum(middle + 5, 12 - 16 * strands))

    liver = organ(
        -65 + 15 * r[12], 112 - 22 * t + 8 * r[13], 105 + 10 * r[14], 62 + 5 * r[15] + 8 * t, 0.2 * r[16], dome
    )
    spleen = organ(52 + 12 * r[17], 96 - 18 * t + 8 * r[18], 36 + 6 * r[19], 30 + 5 * r[20], 0.8 * r[21])
    for tissue, distance in (("liver", liver), ("marrow" if r[22] > 0 else "liver", spleen)):
        paint("fat", distance - 3.5 - grain)
        paint(tissue, distance)
        paint("blood", np.maximum(distance + 8, 4 * (2.0 - grain)))
    paint("marrow", organ(-5 + 8 * r[23], 118, 22, 18, shape=()))  # vertebra
    paint("blood", organ(30 + 8 * r[23], 92 + 6 * r[5], 11, 11, shape=()))  # aorta

    # Blood that no label counts, near the base: right atrium and outflow tract.
    near = np.clip((0.35 - t) / 0.35, 0, 1)
    atrium = organ(-78 + 8 * r[7], 22 + 10 * r[8], 27 * near, 32 * near, 0.5 * r[9])
    paint("myocardium", atrium - 2 * (near > 0))
    paint("blood", atrium + grain)
    paint("blood", organ(-22 + 8 * r[10], -44 + 6 * r[11], 14 * np.sqrt(near), 12 * np.sqrt(near), shape=()))
    return layers


def _composite(layers: Layers) -> np.ndarray:
    """(tissues, n, h, w): what each layer shows of itself from the front; what is left over is air."""
    free = np.ones(np.broadcast_shapes(*(share.shape for _, share in layers)), np.float32)
    fractions = np.zeros((len(TISSUES), *free.shape), np.float32)
    for tissue, share in reversed(layers):
        seen = free * share
        fractions[TISSUES.index(tissue)] += seen
        free -= seen
    fractions[TISSUES.index("air")] += free
    return fractions
