import os
import re
from itertools import permutations
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from prr.data.labels import LABELS, parse
from prr.data.plausible import ENOUGH, MOVES, Sample, odd


def from_acdc(root: Path) -> list[Sample]:
    """The fullest slice of each volume below a folder, as a plain loop reads it."""
    found = []
    for path in sorted(root.rglob("*_gt.nii.gz")):
        mask, nifti = np.asarray(nib.load(path).dataobj), nib.load(str(path).replace("_gt", ""))
        k = (mask > 0).sum(axis=(0, 1)).argmax()
        image = np.asarray(nifti.dataobj[..., k], np.float32)
        found.append(Sample(image, mask[..., k].astype(np.uint8), nifti.header.get_zooms()[:2], path))
    return found


@pytest.fixture(scope="module")
def hearts(phantom_root: Path) -> list[Sample]:
    return from_acdc(phantom_root / "acdc")


def drawn(n: int, shape: tuple[int, int] = (120, 100), seed: int = 0) -> list[Sample]:
    """A disc in a ring beside another disc, off the centre, in noise: RV 1, myocardium 2, LV 3."""
    rng, samples = np.random.default_rng(seed), []
    y, x = np.ogrid[: shape[0], : shape[1]]
    for _ in range(n):
        mask = np.zeros(shape, np.uint8)
        for label, (row, column), radius in ((1, (50, 36), 14), (2, (50, 58), 16), (3, (50, 58), 10)):
            mask[(y - row) ** 2 + (x - column) ** 2 <= radius**2] = label
        samples.append(Sample(rng.normal(100, 10, shape) + 80 * (mask % 2), mask, (1.5, 1.5), "drawn"))
    return samples


def masked(samples: list[Sample], change) -> list[Sample]:
    return [sample._replace(mask=change(sample.mask)) for sample in samples]


def scaled(mask: np.ndarray, factor: float) -> np.ndarray:
    """A mask whose pixel p is the old one's p / factor."""
    rows, columns = (np.rint(np.arange(n) / factor).astype(int) for n in mask.shape)
    new = np.zeros_like(mask)
    rows, columns = rows[rows < mask.shape[0]], columns[columns < mask.shape[1]]
    new[: len(rows), : len(columns)] = mask[np.ix_(rows, columns)]
    return new


@pytest.mark.parametrize("kept", [(1, 2, 3), (2,), (1,), (3,), (2, 3)])
def test_right_masks_are_not_odd(hearts, kept):
    labels = {0: "background", **{label: LABELS[label] for label in kept}}
    for samples in (hearts, hearts[:4], hearts[:1], drawn(2), drawn(4), drawn(12)):
        assert odd(masked(samples, lambda mask: mask * np.isin(mask, kept)), labels) == []


@pytest.mark.parametrize("order", [order for order in permutations((1, 2, 3)) if order != (1, 2, 3)])
@pytest.mark.parametrize("source", ["hearts", "drawn"])
def test_exchanged_labels_are_seen_and_the_map_puts_them_right(order, source, request):
    samples = drawn(4) if source == "drawn" else request.getfixturevalue("hearts")
    samples = masked(samples, lambda mask: np.array([0, *order], np.uint8)[mask])
    (sentence,) = odd(samples, LABELS)
    assert "is enclosed by" in sentence
    mapped = parse(re.search('labels="(.*)"', sentence)[1])
    assert [mapped[label] for label in order] == ["RV", "MYO", "LV"]
    assert odd(samples, mapped) == []


def test_the_order_of_another_challenge_is_told_with_what_was_seen():
    swapped = masked(drawn(4), lambda mask: np.array([0, 3, 2, 1])[mask])
    (sentence,) = odd(swapped, LABELS)
    assert sentence.startswith(
        "RV cavity (1) is enclosed by myocardium (2) along 100 % of its border, LV cavity (3) is"
    )
    assert sentence.endswith('map labels="LV=1 MYO=2 RV=3"')


def test_shares_of_a_border_count_the_sides_of_pixels():
    mask = np.zeros((20, 20), np.uint8)
    mask[5:9, 5:9] = 3  # 16 sides, two of which touch label 2
    mask[4, 5:7] = 2
    sample = Sample(mask.astype(float), mask, (20, 20), "squares")
    (sentence,) = odd([sample], {2: "MYO", 3: "LV"})
    assert sentence.startswith("LV (3) is enclosed by MYO (2) along 12 % of its border, expected")


def test_a_binary_mask_and_an_absent_label_are_told():
    for samples in (drawn(1), drawn(4)):
        (sentence,) = odd(masked(samples, lambda mask: (mask == 3).astype(np.uint8)), LABELS)
        assert sentence.startswith("one label only, called RV cavity (1), and myocardium (2), LV cavity (3) in none of")
        assert sentence.endswith('labels="LV=1"')
    (sentence,) = odd(masked(drawn(4), lambda mask: mask * (mask < 3)), LABELS)
    assert sentence.startswith("the labels RV cavity (1), myocardium (2), and LV cavity (3) in none of 4 slices")
    (sentence,) = odd(masked(drawn(4), lambda mask: mask * 0), LABELS)
    assert "in none of 4 slices, which have no label at all" in sentence


def test_a_rare_lesion_may_be_absent_but_not_all_of_many():
    names = {1: "liver", 2: "tumour", 3: "vessel"}
    assert odd(masked(drawn(ENOUGH), lambda mask: mask * (mask < 3)), names) == []
    assert odd(masked(drawn(ENOUGH - 1), lambda mask: (mask > 0) * 1), names) == []
    (sentence,) = odd(masked(drawn(ENOUGH), lambda mask: (mask > 0) * 1), names)
    assert sentence.startswith(
        f"one label only, called liver (1), and tumour (2), vessel (3) in none of {ENOUGH} slices"
    )


def test_areas_that_no_heart_has_are_told_in_cm2():
    tiny = [sample._replace(spacing=(0.15, 0.3)) for sample in drawn(3)]
    pixels = np.sum(tiny[0].mask == 1)
    (sentence,) = odd(tiny, LABELS)
    assert f"RV cavity (1) {pixels * 0.045 / 100:.2g} cm2, expected 4 to 90" in sentence
    assert "check the spacing, 0.15 x 0.3 mm" in sentence
    assert odd(tiny, {1: "cell", 2: "wall", 3: "nucleus"}) == []


MISPLACED = {  # what was done to a mask: what undoes it
    "mirrored along the first axis": lambda mask: mask[::-1],
    "mirrored along the second axis": lambda mask: mask[:, ::-1],
    "mirrored along both axes": lambda mask: mask[::-1, ::-1],
    "transposed": lambda mask: mask.T,
    "transposed, then mirrored along the first axis": lambda mask: mask[::-1].T,
    "transposed, then mirrored along the second axis": lambda mask: mask[:, ::-1].T,
    "transposed, then mirrored along both axes": lambda mask: mask[::-1, ::-1].T,
    "divided by the spacing, as contours in mm have to be": lambda mask: scaled(mask, 1.37),
    "multiplied by the spacing": lambda mask: scaled(mask, 1 / 1.37),
    "moved by -9 pixels along the first axis and 5 along the second": lambda mask: np.roll(mask, (9, -5), (0, 1)),
}


@pytest.mark.parametrize("kept", [(1, 2, 3), (2,)])
@pytest.mark.parametrize("how", MISPLACED)
def test_misplaced_masks_are_seen_with_what_undoes_it(hearts, how, kept):
    square = [each._replace(image=each.image[:160, :160], mask=each.mask[:160, :160]) for each in hearts]
    square = [each._replace(spacing=(1.37, 1.37)) for each in square]
    names = {label: LABELS[label] for label in kept}
    square = masked(square, lambda mask: mask * np.isin(mask, kept))
    assert odd(square, names) == []
    (sentence,) = [each for each in odd(masked(square, MISPLACED[how]), names) if "median area" not in each]
    assert f"if masks are {how} (edges stand out by" in sentence


def test_every_move_is_tried():
    assert set(MISPLACED) >= set(MOVES)


def test_large_images_are_shrunk_and_shifts_are_told_in_their_pixels():
    large = [
        each._replace(image=np.kron(each.image, np.ones((6, 6))), mask=np.kron(each.mask, np.ones((6, 6), np.uint8)))
        for each in drawn(5)
    ]
    names = {1: "a", 2: "b", 3: "c"}
    assert odd(large, names) == []
    (sentence,) = odd(masked(large, lambda mask: np.roll(mask, 60, 1)), names)
    assert re.search("moved by 0 pixels along the first axis and -(60|5[89]|6[12]) along the second", sentence)


def test_pixels_without_a_name_have_no_border():
    rng = np.random.default_rng(0)
    samples = masked(drawn(6), lambda mask: np.where(rng.random(mask.shape) < 0.2, 255, mask))
    assert odd(samples, LABELS) == []


@pytest.mark.parametrize("count", [1, 3, 4, 10, 40])
@pytest.mark.parametrize("shape", [(6, 9), (40, 40), (97, 128)])
def test_masks_that_have_nothing_to_do_with_the_images_are_no_reason_to_move_them(count, shape):
    rng = np.random.default_rng(count)
    flat, noise = np.full(shape, 7.0), rng.normal(size=(count, *shape))
    squares = np.zeros((count, *shape), np.uint8)
    for square in squares:
        row, column = (rng.integers(0, n // 2) for n in shape)
        square[row : row + shape[0] // 3, column : column + shape[1] // 3] = 1
    for images in (noise, [flat] * count, noise[:1] + 0.1 * noise):
        samples = [Sample(image, mask, (1, 1), "noise") for image, mask in zip(images, squares, strict=True)]
        assert odd(samples, {1: "thing"}) == []


@pytest.mark.parametrize("seed", range(12))
def test_one_picture_in_all_slices_is_one_piece_of_evidence(seed):
    """Somewhere in a texture borders fit by chance, and then do so in each slice."""
    rng = np.random.default_rng(seed)
    texture, mask = gaussian_filter(rng.normal(size=(96, 96)), 1.0), np.zeros((96, 96), np.uint8)
    mask[40:50, 30:42] = 1
    images = texture + 0.3 * texture.std() * rng.normal(size=(8, 96, 96))
    assert odd([Sample(image, mask, (1, 1), "texture") for image in images], {1: "thing"}) == []


def test_a_margin_without_signal_does_not_count():
    wide = [
        each._replace(image=np.pad(each.image, ((0, 120), (0, 140))), mask=np.pad(each.mask, ((0, 120), (0, 140))))
        for each in drawn(6)
    ]
    assert odd(wide, LABELS) == []
    (sentence,) = odd(masked(wide, np.fliplr), LABELS)
    assert "mirrored along the second axis" in sentence


def test_an_image_with_a_gap_is_left_out():
    broken = masked(drawn(4), lambda mask: np.roll(mask, 12, 0))
    broken[0].image[3, 3] = np.nan
    assert odd(broken, LABELS) == []


def test_few_slices_are_too_few_to_tell():
    assert odd(masked(drawn(3), lambda mask: np.roll(mask, 12, 0)), LABELS) == []
    assert odd(masked(drawn(4), lambda mask: np.roll(mask, 12, 0)), LABELS) != []


def test_a_margin_of_two_pixels_is_left_to_annotators():
    assert odd(masked(drawn(8), lambda mask: np.roll(mask, (2, -2), (0, 1))), LABELS) == []


def test_nothing_is_nothing_odd():
    assert odd([], LABELS) == []
    assert odd(drawn(4), {0: "background"}) == []


@pytest.mark.real
def test_real_acdc_is_not_odd_and_its_mirror_is():
    root = os.environ.get("PRR_REAL_ACDC")
    if not root:
        pytest.skip("PRR_REAL_ACDC names no folder of the real ACDC training set")
    samples = from_acdc(Path(root))
    for kept in ((1, 2, 3), (2,), (1,)):
        names = {label: LABELS[label] for label in kept}
        some = masked(samples, lambda mask, kept=kept: mask * np.isin(mask, kept))
        for k in range(0, 200, 20):
            assert odd(some[k : k + 20], names) == []
            (sentence,) = odd(masked(some[k : k + 20], np.flipud), names)
            assert "mirrored along the first axis" in sentence
    swapped = masked(samples[:4], lambda mask: np.array([0, 3, 2, 1])[mask])
    assert 'labels="LV=1 MYO=2 RV=3"' in odd(swapped, LABELS)[0]
