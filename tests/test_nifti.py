"""What headers say of where voxels lie, agreeing or not."""

import gzip
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from prr.data.nifti import read_pair
from prr.errors import DataError

RNG = np.random.default_rng(0)
IMAGE = RNG.normal(100, 10, (30, 24, 5)).astype(np.float32)
MASK = RNG.integers(0, 4, IMAGE.shape).astype(np.uint8)
ANGLE = np.cos(0.3), np.sin(0.3)
OBLIQUE = np.array([[1.5 * ANGLE[0], -1.25 * ANGLE[1], 0, -40], [1.5 * ANGLE[1], 1.25 * ANGLE[0], 0, 17],
                    [0, 0, 8, 200], [0, 0, 0, 1]])  # fmt: skip


def saved(path: Path, voxels: np.ndarray, affine: np.ndarray | None = OBLIQUE, kind=nib.Nifti1Image) -> Path:
    raw = kind(voxels, affine).to_bytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def pair(folder: Path, image: np.ndarray = IMAGE, mask: np.ndarray = MASK, of_mask: dict | None = None, **options):
    found = read_pair(
        [saved(folder / "a.nii.gz", image, **options)], saved(folder / "b.nii.gz", mask, **(options | (of_mask or {})))
    )
    return found


def turned(voxels: np.ndarray, order: tuple[int, ...], signs: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Voxels stored along other axes, and the affine under which each stays where it was: nibabel's own."""
    ornt = np.array([[axis, sign] for axis, sign in zip(order, signs, strict=True)])
    affine = OBLIQUE @ nib.orientations.inv_ornt_aff(ornt, voxels.shape)
    return nib.orientations.apply_orientation(voxels, ornt), affine


def is_plain(found) -> None:
    assert np.array_equal(found.image, IMAGE.transpose(2, 0, 1))
    assert np.array_equal(found.mask, MASK.transpose(2, 0, 1))
    assert found.spacing == pytest.approx((1.5, 1.25))


def test_rows_are_the_first_axis_and_columns_the_second(tmp_path):
    found = pair(tmp_path)
    is_plain(found)
    assert (found.told, found.phantom) == ((), False)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_mask_is_laid_on_its_image_however_it_is_turned(tmp_path, order):
    for signs in product((1, -1), repeat=3):
        mask, affine = turned(MASK, order, signs)
        found = pair(tmp_path, mask=mask, of_mask={"affine": affine})
        is_plain(found)
        expected = () if (order, signs) == ((0, 1, 2), (1, 1, 1)) else (
            "b.nii.gz runs in other directions, and was turned as the affines say",
        )  # fmt: skip
        assert found.told == expected


@pytest.mark.parametrize("change", [
    lambda affine: affine + np.array([[0, 0, 0, 40]] + 3 * [[0, 0, 0, 0]]),
    lambda affine: affine @ np.diag([-1, 1, 1, 1]),
    lambda affine: affine @ np.diag([2, 2, 1, 1]),
    lambda affine: np.eye(4),
    lambda affine: np.diag([1.5, 1.25, 8, 1]),
])  # fmt: skip
def test_affines_that_contradict_each_other_are_told_with_both_and_the_voxels_trusted(tmp_path, change):
    found = pair(tmp_path, of_mask={"affine": change(OBLIQUE)})
    is_plain(found)
    (told,) = (each for each in found.told if "contradict" in each)
    assert "a.nii.gz [1.433" in told
    assert "b.nii.gz [" in told


def test_affines_that_differ_by_less_than_half_a_voxel_agree(tmp_path):
    shifted = OBLIQUE.copy()
    shifted[:3, 3] += 0.4
    assert pair(tmp_path, of_mask={"affine": shifted}).told == ()


def test_a_mask_of_another_shape_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"b\.nii\.gz: expected the grid of a\.nii\.gz, \(30, 24, 5\) .* \(29, 24, 5\)"):
        pair(tmp_path, mask=MASK[1:])


def patched(path: Path, pixdim: tuple | None = None, coded: bool = True, sform: bytes = b"") -> Path:
    """A file with other bytes in its header, which nibabel would mend before it writes."""
    raw = bytearray(gzip.decompress(path.read_bytes()))
    if pixdim:
        raw[80:92] = np.array(pixdim, "<f4").tobytes()
    if not coded:
        raw[252:256] = bytes(4)
    raw[280 : 280 + len(sform)] = sform
    path.write_bytes(gzip.compress(raw))
    return path


@pytest.mark.parametrize("pixdim", [(1, 1, 1), (0, 0, 0), (1.5, 1.5, 8)])
def test_the_affine_wins_over_pixdim_and_that_is_told(tmp_path, capfd, pixdim):
    image = patched(saved(tmp_path / "a.nii.gz", IMAGE), pixdim)
    found = read_pair([image], saved(tmp_path / "b.nii.gz", MASK))
    is_plain(found)
    assert len(found.told) == 1
    assert "voxels of 1.5 x 1.25 x 8 by the sform, {:g} x {:g} x {:g} by pixdim".format(*pixdim) in found.told[0]
    assert capfd.readouterr().err == ""


def test_pixdim_alone_will_do_and_none_is_refused(tmp_path):
    image, mask = saved(tmp_path / "a.nii.gz", IMAGE), saved(tmp_path / "b.nii.gz", MASK)
    for path in (image, mask):
        patched(path, coded=False)
        found = read_pair([image], mask)
        is_plain(found)
        assert found.told == ()
    with pytest.raises(DataError, match=r"a\.nii\.gz: expected the size of a voxel, found 0 x 0 x 0 in pixdim"):
        read_pair([patched(image, (0, 0, 0))], mask)
    (told,) = read_pair([patched(image, (1.5, 1.25, 8))], patched(mask, (1, 1, 1))).told
    assert "contradict" in told


@pytest.mark.parametrize("sform", [bytes(48), np.full(12, np.nan, "<f4").tobytes()])
def test_an_sform_that_is_none_is_left_aside_and_told(tmp_path, sform):
    image = patched(saved(tmp_path / "a.nii.gz", IMAGE), sform=sform)
    found = read_pair([image], saved(tmp_path / "b.nii.gz", MASK))
    is_plain(found)
    assert ["its sform is unusable, [" in each for each in found.told] == [True]


def test_the_sform_wins_over_the_qform_and_that_is_told(tmp_path):
    nifti = nib.Nifti1Image(IMAGE, OBLIQUE)
    nifti.set_qform(np.diag([1.5, 1.25, 8, 1]), 1)
    nifti.set_sform(OBLIQUE, 1)
    nib.save(nifti, tmp_path / "a.nii.gz")
    found = read_pair([tmp_path / "a.nii.gz"], saved(tmp_path / "b.nii.gz", MASK))
    is_plain(found)
    assert found.told == ("sform and qform place the volume differently; the sform is taken",)


def test_an_identity_is_told_as_a_lost_spacing(tmp_path):
    found = pair(tmp_path, affine=np.eye(4))
    assert found.spacing == (1, 1)
    assert ["the affine is the identity" in each for each in found.told] == [True]


@pytest.mark.parametrize(("order", "axis"), [((2, 1, 0), 1), ((0, 2, 1), 2)])
def test_slices_that_are_not_last_are_turned_by_their_spacing(tmp_path, order, axis):
    affine = np.diag([*np.array([1.5, 1.25, 8])[list(order)], 1])
    found = pair(tmp_path, IMAGE.transpose(order).copy(), MASK.transpose(order).copy(), affine=affine)
    is_plain(found)
    assert found.told == (f"slices lie along axis {axis} of 3, 8 mm apart: the volume was turned",)


@pytest.mark.parametrize("affine", [np.eye(4), np.diag([1.5, 1.5, 8, 1])])
def test_slices_first_are_refused_where_the_spacing_does_not_tell(tmp_path, affine):
    image = RNG.normal(size=(4, 50, 60)).astype(np.float32)
    with pytest.raises(DataError, match=r"a\.nii\.gz: expected slices along the last axis, found 60 images of 4 x 50"):
        pair(tmp_path, image, np.zeros(image.shape, np.uint8), affine=affine)


def test_cubic_volumes_are_cut_along_the_last_axis(tmp_path):
    image, affine = RNG.normal(size=(35, 51, 36)).astype(np.float32), np.diag([1, 1, 1.2, 1])
    found = pair(tmp_path, image, np.zeros(image.shape, np.uint8), affine=affine)
    assert found.image.shape == (36, 35, 51)
    assert found.told == ()


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_both_versions_are_read_packed_or_not(tmp_path, name, kind):
    image = saved(tmp_path / name, IMAGE, kind=kind)
    is_plain(read_pair([image], saved(tmp_path / "b.nii", MASK, kind=kind)))


def test_content_counts_and_not_the_name(tmp_path):
    image, mask = saved(tmp_path / "a.nii", IMAGE), saved(tmp_path / "b.nii.gz", MASK)
    is_plain(read_pair([image.rename(tmp_path / "c.nii.gz")], mask.rename(tmp_path / "d.nii")))
    big = nib.Nifti1Image(IMAGE, OBLIQUE, nib.Nifti1Header(endianness=">"))
    (tmp_path / "e.nii").write_bytes(big.to_bytes())
    is_plain(read_pair([tmp_path / "e.nii"], tmp_path / "d.nii"))
    nib.save(nib.Nifti1Pair(IMAGE, OBLIQUE), tmp_path / "f.hdr")
    is_plain(read_pair([tmp_path / "f.hdr"], tmp_path / "d.nii"))


def test_channels_come_in_one_file_or_in_several(tmp_path):
    other, affine = turned(2 * IMAGE, (1, 0, 2), (-1, 1, 1))
    files = [saved(tmp_path / "a.nii.gz", IMAGE), saved(tmp_path / "c.nii.gz", np.ascontiguousarray(other), affine)]
    mask = saved(tmp_path / "b.nii.gz", MASK)
    several = read_pair(files, mask)
    one = read_pair([saved(tmp_path / "d.nii.gz", np.stack([IMAGE, 2 * IMAGE], axis=3))], mask)
    expected = np.stack([IMAGE, 2 * IMAGE]).transpose(3, 0, 1, 2)
    assert np.array_equal(several.image, expected)
    assert np.array_equal(one.image, expected)
    assert several.told == ("c.nii.gz runs in other directions, and was turned as the affines say",)
    with pytest.raises(DataError, match=r"e\.nii\.gz: expected the grid of a\.nii\.gz"):
        read_pair([files[0], saved(tmp_path / "e.nii.gz", IMAGE[:-1])], mask)


def test_axes_of_length_1_are_no_axes(tmp_path):
    is_plain(pair(tmp_path, IMAGE[..., None], MASK[..., None]))
    flat = pair(tmp_path, IMAGE[..., 0], MASK[..., 0])
    assert np.array_equal(flat.image, IMAGE[None, ..., 0])


@pytest.mark.parametrize(("image", "mask", "message"), [
    (IMAGE, np.stack([MASK, MASK], 3), r"b\.nii\.gz: expected 3 axes"),
    (np.full_like(IMAGE, np.nan), MASK, r"a\.nii\.gz: expected finite voxels"),
    (IMAGE, np.where(MASK == 1, np.nan, MASK).astype(np.float32), r"b\.nii\.gz: expected finite voxels"),
    (IMAGE, MASK + np.float32(0.5), r"b\.nii\.gz: expected whole numbers"),
    (IMAGE.astype(np.complex64), MASK, r"a\.nii\.gz: expected a real number"),
    (IMAGE[..., :0], MASK[..., :0], r"a\.nii\.gz: expected 3 axes"),
])  # fmt: skip
def test_voxels_that_are_none_are_refused_by_name(tmp_path, image, mask, message):
    with pytest.raises(DataError, match=message):
        pair(tmp_path, image, mask)


def test_masks_may_be_of_any_number_type(tmp_path):
    for dtype in (np.int16, np.float32, np.float64):
        found = pair(tmp_path, mask=MASK.astype(dtype))
        is_plain(found)
        assert found.mask.dtype.kind in "iu"


@pytest.mark.parametrize(("content", "advice"), [
    (gzip.compress(bytes(4000), mtime=0)[:20], "; it is damaged: get the file again"),
    (nib.Nifti1Image(IMAGE, OBLIQUE).to_bytes()[:3000], "; it is damaged: get the file again"),
    (b"", ""),
    (b"<html>404</html>" * 40, ""),
])  # fmt: skip
def test_advice_to_get_a_file_again_stands_where_it_is_damaged(tmp_path, content, advice):
    (tmp_path / "a.nii.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.nii\.gz: expected a NIfTI volume") as caught:
        read_pair([tmp_path / "a.nii.gz"], saved(tmp_path / "b.nii.gz", MASK))
    assert str(caught.value).endswith(")" + advice)
