"""Phantoms: hearts drawn by `anatomy`, imaged here, on disk in the layouts of ACDC, T1 and RVSC.

They let the book run where the data sets are absent. They are not data: no measurement of a patient is in
them, only sizes and tissue constants, so a number obtained on them says nothing about patients.

Source: T1 mapping at 1.5 T (myocardium about 950 ms, blood about 1550 ms): Messroghli et al., JCMR 19:75,
2017, doi:10.1186/s12968-017-0389-8; inversion times: Messroghli et al., MRM 52:141-146, 2004,
doi:10.1002/mrm.20110.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter, shift
from skimage.measure import find_contours

from prr.data import acdc, rvsc, t1
from prr.data.anatomy import TISSUES, Anatomy, Scene, Stack, draw_chest, draw_heart

# For each of TISSUES. Cine signal is relative (balanced SSFP: blood and fat are bright), of two scanners.
CINE_ACDC = np.array([0.00, 0.78, 0.20, 0.05, 0.27, 0.80, 0.25, 0.40], np.float32)
CINE_RVSC = np.array([0.00, 0.95, 0.26, 0.09, 0.36, 0.68, 0.29, 0.55], np.float32)
T1_MS = np.array([1000, 260, 1050, 1150, 580, 1550, 950, 500], np.float32)
T1_PROTONS = np.array([0.00, 0.85, 0.70, 0.12, 0.70, 0.90, 0.80, 0.60], np.float32)


class View(NamedTuple):
    """Where the pixels of an image lie in the patient."""

    height: int
    width: int
    pixel: float  # mm
    centre: complex  # x + i y, mm, of the image's centre
    turn: complex  # of modulus 1

    @classmethod
    def draw(cls, rng: np.random.Generator, height: int, width: int, pixel: float, centre: complex) -> "View":
        """A view turned by up to some 30 degrees; the heart is never exactly in the middle."""
        centre += complex(*rng.normal(0, 6, 2))
        return cls(height, width, pixel, centre, np.exp(1j * rng.normal(0, 0.22)))

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """(1, h, w) x and y of pixel centres, mm."""
        columns = (np.arange(self.width) - (self.width - 1) / 2) * self.pixel
        rows = (np.arange(self.height) - (self.height - 1) / 2) * self.pixel
        z = ((columns + 1j * rows[:, None]) * self.turn + self.centre)[None]
        return z.real.astype(np.float32), z.imag.astype(np.float32)

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Column and row, counted from 0, of x and y in mm; both (..., 2)."""
        z = (points[..., 0] + 1j * points[..., 1] - self.centre) * self.turn.conjugate() / self.pixel
        return np.stack([z.real + (self.width - 1) / 2, z.imag + (self.height - 1) / 2], axis=-1)


def _stack(rng: np.random.Generator, view: View, t: np.ndarray) -> Stack:
    """The slices at `t` in this view; their grain is alike in neighbouring slices, as vessels are."""
    step = 3
    noise = rng.standard_normal((view.height + step * len(t), view.width), np.float32)
    noise = gaussian_filter(noise, 1.8 / view.pixel)
    noise /= noise.std()
    grain = np.stack([noise[step * k :][: view.height] for k in range(len(t))])
    return Stack(t, *view.grid(), view.pixel, grain)


def _shading(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(1, h, w) smooth sensitivity of the coils, stronger towards the chest."""
    g = rng.normal(0, 0.15, 5)
    bend = (g[2] * x * x + g[3] * x * y + g[4] * y * y) / 2e4
    return np.exp(np.clip((g[0] * x + (g[1] - 0.25) * y) / 100 + bend, -1.2, 0.8)).astype(np.float32)


def _scan(rng: np.random.Generator, signal: np.ndarray, noise: float) -> np.ndarray:
    """Magnitude of a signal (..., h, w) with noise of this standard deviation in both channels: Rician."""
    real, imaginary = (rng.standard_normal(signal.shape, np.float32) * np.float32(noise) for _ in range(2))
    return np.hypot(signal + real, imaginary)


def _cine(
    rng: np.random.Generator, anatomy: Anatomy, stack: Stack, contrast: np.ndarray, noise: float
) -> list[tuple[np.ndarray, Scene]]:
    """Images (n, h, w) and scene at end-diastole, then at end-systole."""
    chest, shading = draw_chest(anatomy, stack), _shading(rng, stack.x, stack.y)
    contrast = contrast * rng.normal(1, 0.09, len(contrast)).astype(np.float32)
    gain, phases = rng.uniform(200, 900), []
    for systole in (False, True):
        scene = draw_heart(anatomy, anatomy.curves(stack.t, systole), chest, stack)
        signal = np.tensordot(contrast, scene.fractions, 1) * (1 + 0.05 * stack.grain) * shading
        phases.append((gain * _scan(rng, signal, noise), scene))
    return phases


def _acdc_patient(folder: Path, rng: np.random.Generator) -> None:
    anatomy = Anatomy.draw(rng)
    pixel = float(rng.choice([1.25, 1.37, 1.45, 1.56]))
    height, width = (16 * rng.integers(10, 13, 2)).tolist()
    n, end_systole = int(rng.integers(8, 11)), int(rng.integers(8, 15))
    t = (np.arange(n) + rng.uniform(0.3, 0.9)) / n
    stack = _stack(rng, View.draw(rng, height, width, pixel, -8 + 8j), t)
    phases = _cine(rng, anatomy, stack, CINE_ACDC, rng.uniform(0.01, 0.03))
    info = {
        "ED": 1,
        "ES": end_systole,
        "Group": anatomy.group,
        "Height": f"{rng.normal(170, 9):.1f}",
        "NbFrame": 30,
        "Weight": f"{rng.normal(75, 14):.1f}",
    }
    acdc.write(folder, info, [(image.astype(np.int16), scene.masks) for image, scene in phases], pixel)


def _rvsc_patient(folder: Path, rng: np.random.Generator) -> None:
    anatomy = Anatomy.draw(rng)
    pixel, n, end_systole = rng.uniform(1.3, 1.5), int(rng.integers(8, 11)), int(rng.integers(7, 10))
    height, width = ((128, 108), (108, 128))[rng.integers(2)]
    t = (np.arange(n) + rng.uniform(0.3, 0.9)) / n
    stack = _stack(rng, View.draw(rng, height, width, pixel, -24 + 8j), t)
    images = {}
    phases = _cine(rng, anatomy, stack, CINE_RVSC, rng.uniform(0.03, 0.06))
    for phase, (image, scene) in zip((0, end_systole), phases, strict=True):
        # This scanner interpolates to twice the acquired matrix.
        fine = F.interpolate(torch.from_numpy(image)[:, None], scale_factor=2, mode="bicubic")[:, 0]
        fine = fine.clamp(0).numpy().astype(np.uint16)
        for k in np.flatnonzero((scene.masks == 1).sum((1, 2)) * pixel**2 > 60).tolist():
            # As in the challenge, end-systole may lack the o-contour.
            outer = _outline(scene.cavity[k], 3.0) if phase == 0 or rng.random() < 0.7 else None
            images[k * rvsc.PHASES + phase] = fine[k], _outline(scene.cavity[k], 0.0), outer
    rvsc.write(folder, dict(sorted(images.items())), pixel / 2)


def _outline(distance: np.ndarray, level: float) -> np.ndarray:
    """(points, 2) x and y of a level line, in pixels of an image with twice as many rows and columns."""
    line = max(find_contours(distance, level), key=len)
    return 2 * line[:, ::-1] + 0.5


def _t1_patient(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images, endocardial and epicardial contours, inversion times: what `t1.write` takes."""
    anatomy = Anatomy.draw(rng)
    n, size = 5, 160
    t = np.linspace(0.12, 0.80, n) + rng.uniform(-0.04, 0.04)
    view = View.draw(rng, size, size, 2.1, -8 + 8j)
    stack, curves = _stack(rng, view, t), anatomy.curves(t, systole=False)
    scene = draw_heart(anatomy, curves, draw_chest(anatomy, stack), stack)
    times = _inversion_times(rng, n)  # (T, S) ms
    relaxation = T1_MS * rng.normal(1, 0.04, len(T1_MS))
    # (S, T, tissues), signed: within a pixel, tissues of opposite sign cancel before the magnitude is taken.
    recovery = T1_PROTONS * (1 - 2 * np.exp(-times.T[..., None] / relaxation))
    signal = np.abs(recovery.astype(np.float32) @ scene.fractions.reshape(len(TISSUES), n, -1).swapaxes(0, 1))
    bright = (1 + 0.05 * stack.grain) * _shading(rng, stack.x, stack.y)
    signal = signal.reshape(n, len(times), size, size) * bright[:, None]
    drift = rng.normal(0, 0.7, (n, len(times), 2))  # pixels in x and y, between a slice's images: breathing
    for s, k in np.ndindex(drift.shape[:2]):
        signal[s, k] = shift(signal[s, k], drift[s, k, ::-1], order=1, mode="nearest")
    image = (rng.uniform(300, 900) * _scan(rng, signal, rng.uniform(0.015, 0.035))).astype(np.uint16)
    outlines = [view.pixels(curves[name].points(t1.POINTS)) for name in ("endo", "epi")]  # (S, 60, 2)
    contours = [line[:, None] + drift[:, :, None] + 1 for line in outlines]  # counted from 1, as MATLAB does
    return image.transpose(2, 3, 1, 0), *(contour.transpose(2, 3, 1, 0) for contour in contours), times


def _inversion_times(rng: np.random.Generator, slices: int) -> np.ndarray:
    """(11, slices) ms, ascending: three inversions, read at 3, 3 and 5 heartbeats (Messroghli 2004)."""
    beat = rng.normal(850, 80)
    times = [first + beat * k for first, beats in ((100, 3), (200, 3), (350, 5)) for k in range(beats)]
    return np.sort(np.array(times)[:, None] + rng.normal(0, 8, (len(times), slices)), axis=0)


def write_acdc(root: Path, patients: int, seed: int) -> None:
    """Phantom patients 1 to n in ACDC's layout."""
    for k in range(1, patients + 1):
        _acdc_patient(root / "database" / "training" / f"patient{k:03d}", np.random.default_rng([seed, 0, k]))


def write_t1(root: Path, patients: int, seed: int) -> None:
    """Phantom patients 1 to n in T1's layout."""
    t1.write(root, (_t1_patient(np.random.default_rng([seed, 1, k])) for k in range(1, patients + 1)))


def write_rvsc(root: Path, patients: int, seed: int) -> None:
    """Phantom patients in RVSC's layout, in TrainingSet and Test1Set in turn: k is the same one for any n."""
    train = (patients + 1) // 2
    for k in range(1, patients + 1):
        subset, number = (rvsc.TRAIN, (k + 1) // 2) if k % 2 else (rvsc.TEST, max(16, train) + k // 2)
        _rvsc_patient(root / subset / f"patient{number:02d}", np.random.default_rng([seed, 2, k]))
