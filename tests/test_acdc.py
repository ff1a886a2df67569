import gzip
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from prr.data import check, read_acdc, split
from prr.errors import DataError, OptionError, PrrError

pytestmark = pytest.mark.filterwarnings("ignore:.* labelled pixels are cut off")  # most read few pixels


def frames(root: Path) -> list[Path]:
    """ED before ES, patient by patient: the label files, as a plain listing has them."""
    return sorted(root.rglob("*_gt.nii.gz"))


@pytest.fixture
def acdc(phantom_root: Path, tmp_path: Path) -> Path:
    """A copy of two patients that a test may damage."""
    for patient in ("patient001", "patient002"):
        shutil.copytree(phantom_root / "acdc/database/training" / patient, tmp_path / patient)
    return tmp_path


def test_labels_are_those_that_nibabel_reads(phantom_root):
    data = read_acdc(phantom_root / "acdc", size=256, spacing_mm=1.25, split="all", progress=False)
    start = 0
    for path in frames(phantom_root / "acdc"):
        nifti = nib.load(path)
        mask = np.asanyarray(nifti.dataobj)
        if abs(nifti.header.get_zooms()[0] - 1.25) > 1e-6:
            start += mask.shape[2]
            continue
        for k in range(mask.shape[2]):  # the same spacing: nothing is resampled, only padded
            kept = data.masks[start + k].numpy()
            top, left = ((256 - n) // 2 for n in mask.shape[:2])
            assert np.array_equal(kept[top : top + mask.shape[0], left : left + mask.shape[1]], mask[..., k])
            assert kept.sum() == mask[..., k].sum()
        start += mask.shape[2]
    assert start == len(data)


def test_area_of_each_label_survives_resampling(phantom_root):
    data = read_acdc(phantom_root / "acdc", size=200, spacing_mm=1.5, progress=False)
    for label in (1, 2, 3):
        stored = 0.0
        for path in frames(phantom_root / "acdc"):
            nifti = nib.load(path)
            stored += (np.asanyarray(nifti.dataobj) == label).sum() * np.prod(nifti.header.get_zooms()[:2])
        assert abs((data.masks == label).sum() * 1.5**2 / stored - 1) < 0.02


def test_each_volume_has_zero_mean_and_unit_variance_and_all_its_slices(phantom_root):
    data = read_acdc(phantom_root / "acdc", progress=False)
    assert (data.name, data.spacing_mm, data.phantom) == ("ACDC", 1.5, True)
    start = 0
    for path in frames(phantom_root / "acdc"):
        n = nib.load(path).shape[2]
        volume = data.images[start : start + n]
        assert set(data.patient[start : start + n].tolist()) == {int(path.name[7:10])}
        assert abs(volume.mean()) < 1e-4
        assert abs(volume.std(correction=0) - 1) < 1e-4
        start += n
    assert start == len(data)
    unit = read_acdc(phantom_root / "acdc", normalise="unit", progress=False)
    assert (unit.images.min(), unit.images.max()) == (0, 1)


@pytest.mark.parametrize("below", ["acdc/database/training", "acdc/database", "acdc", "."])
def test_the_folder_or_one_above_it_will_do(phantom_root, below):
    assert len(check(phantom_root / below, "acdc").patients) == 4


def test_splits(phantom_root):
    root = phantom_root / "acdc"
    paper = read_acdc(root, size=32, progress=False)
    assert paper.held_out == split([1, 2, 3, 4], seed=0)
    assert len(paper.train.patient.unique()) == len(paper.validation.patient.unique()) == 2
    assert read_acdc(root, size=32, split="all", progress=False).held_out == ()
    assert read_acdc(root, size=32, split=(3,), progress=False).validation.patient.unique().tolist() == [3]


def test_check_counts_what_is_there_and_names_what_is_not(acdc):
    found = check(acdc)
    assert (found.name, found.volumes, sorted(found.areas), found.refused) == ("ACDC", 4, [0, 1, 2, 3], [])
    assert found.phantom
    frames(acdc)[0].unlink()
    (acdc / "patient002/Info.cfg").write_text("ED: 1")
    found = check(acdc)
    assert len(found.refused) == 2
    assert str(acdc / "patient001/patient001_frame01_gt.nii.gz") in found.refused[0]
    assert str(acdc / "patient002/Info.cfg") in found.refused[1]
    assert found.volumes == len(found.data.patient.unique()) == 1


def rewrite(path: Path, change) -> None:
    nifti = nib.load(path)
    voxels = np.asanyarray(nifti.dataobj).copy()
    nib.save(nib.Nifti1Image(change(voxels), nifti.affine), path)


def label_7(voxels):
    voxels[0, 0, 0] = 7
    return voxels


def one_nan(voxels):
    voxels = voxels.astype(np.float32)
    voxels[3, 3, 0] = np.nan
    return voxels


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    match how:
        case "gone":
            path.unlink()
        case "truncated":
            path.write_bytes(content[: len(content) // 2])
        case "truncated inside":
            path.write_bytes(gzip.compress(gzip.decompress(content)[:5000]))
        case "a web page":
            path.write_text("<html>404</html>")
        case "empty":
            path.write_bytes(b"")
        case "not gzip inside":
            path.write_bytes(gzip.compress(b"x" * 2000))


DAMAGES = ["gone", "truncated", "truncated inside", "a web page", "empty", "not gzip inside"]


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("suffix", ["", "_gt"])
def test_a_broken_file_is_named(acdc, how, suffix):
    path = acdc / f"patient002/patient002_frame01{suffix}.nii.gz"
    damage(path, how)
    with pytest.raises(DataError, match=path.name) as caught:
        read_acdc(acdc, progress=False)
    assert "expected" in str(caught.value)
    assert "found" in str(caught.value)


@pytest.mark.parametrize(("suffix", "change", "message"), [
    ("_gt", label_7, r"labels 0, 1, 2, 3, found .*7"),
    ("_gt", lambda v: v + 0.5, "labels"),
    ("", one_nan, "NaN"),
    ("_gt", one_nan, "NaN"),
    ("", lambda v: v[:-1], "grid of"),
    ("_gt", lambda v: v[..., :-1], "grid of"),
    ("", lambda v: np.stack([v, v], axis=-1), "3 axes"),
    ("", lambda v: v * 0, "everywhere"),
])  # fmt: skip
def test_wrong_voxels_are_refused_by_name(acdc, suffix, change, message):
    rewrite(acdc / f"patient001/patient001_frame01{suffix}.nii.gz", change)
    with pytest.raises(DataError, match=message) as caught:
        read_acdc(acdc, progress=False)
    assert "patient001_frame01" in str(caught.value)


@pytest.mark.parametrize("text", ["", "ED: 1\n", "ED: 1\nES: ../../etc/passwd\n", "ED: one\nES: 12\n"])
def test_info_without_both_frames_is_refused(acdc, text):
    (acdc / "patient001/Info.cfg").write_text(text)
    with pytest.raises(DataError, match=r"Info\.cfg.*ES: n"):
        read_acdc(acdc, progress=False)


def test_folders_that_are_not_acdc_are_refused(tmp_path, phantom_root):
    for wrong in (tmp_path, tmp_path / "absent", phantom_root / "rvsc"):
        with pytest.raises(DataError, match="patient001"):
            read_acdc(wrong, progress=False)
        with pytest.raises(DataError, match="PRR_ACDC"):
            check(wrong, "acdc")
    with pytest.raises(OptionError, match="expected one of acdc, t1, rvsc, nnunet, found 'mnist'"):
        check(tmp_path, "mnist")


@pytest.mark.real
def test_real_acdc_has_its_100_patients_200_volumes_1902_slices():
    root = os.environ.get("PRR_REAL_ACDC")
    if not root:
        pytest.skip("PRR_REAL_ACDC names no folder of the real ACDC training set")
    with (
        pytest.warns(UserWarning, match=r"patient076_frame01.* the same image as .*patient074_frame01.* in 1 more"),
        pytest.warns(UserWarning, match=r"patient046_frame01.* labelled pixels are cut off.* in 1 more"),
    ):
        data = read_acdc(root, progress=False)
    assert check(root).refused == []
    assert len(data) == 1902
    assert len(data.patient.unique()) == 100
    assert len(data.train.patient.unique()) == len(data.validation.patient.unique()) == 50
    assert data.masks.unique().tolist() == [0, 1, 2, 3]
    assert not data.phantom
    assert torch.isfinite(data.images).all()
    assert len(frames(Path(root))) == 200


def test_a_patient_without_info_is_missed_and_not_dropped(acdc):
    (acdc / "patient002" / "Info.cfg").unlink()
    found = check(acdc)
    assert found.patients == {1}
    assert [str(acdc / "patient002" / "Info.cfg") in line for line in found.refused] == [True]
    with pytest.raises(DataError, match=r"patient002/Info.cfg"):
        read_acdc(acdc, progress=False)


def test_a_volume_without_slices_is_refused_and_not_skipped(acdc):
    for suffix in ("", "_gt"):
        rewrite(acdc / f"patient001/patient001_frame01{suffix}.nii.gz", lambda voxels: voxels[..., :0])
    with pytest.raises(DataError, match=r"patient001_frame01\.nii\.gz: expected"):
        read_acdc(acdc, progress=False)


def test_two_folders_of_one_patient_are_refused(acdc):
    shutil.copytree(acdc / "patient002", acdc / "patient2")
    with pytest.raises(DataError, match=r"patient2: expected one folder for each patient, found .*patient002 too"):
        read_acdc(acdc, progress=False)


def test_a_constant_volume_has_no_contrast_whatever_its_value(acdc):
    path = sorted((acdc / "patient001").glob("*_frame??.nii.gz"))[0]
    nifti = nib.load(path)
    nib.save(nib.Nifti1Image(np.full(nifti.shape, 5.1, np.float32), nifti.affine, nifti.header), path)
    with pytest.raises(DataError, match=rf"{path.name}: expected an image with contrast, found the value 5.1"):
        read_acdc(acdc, size=64, spacing_mm=2.2, progress=False)


def digests(root: Path, **options) -> list:
    data = read_acdc(root, size=64, spacing_mm=3.0, split="all", progress=False, **options)
    return [data.images, data.masks, data.patient]


def same(one: list, other: list) -> bool:
    return all(map(torch.equal, one, other))


@pytest.mark.parametrize("below", ["ACDC/database/training", "Training/training", "x/ACDC/Database/Training"])
def test_layouts_that_people_have(acdc, tmp_path_factory, below, recwarn):
    expected = digests(acdc)
    root = tmp_path_factory.mktemp("other")
    shutil.copytree(acdc, root / below)
    shutil.copytree(acdc / "patient001", root / "__MACOSX/training/patient001")
    for k, folder in enumerate(sorted((root / below).iterdir())):
        (folder / "Info.cfg").rename(folder / ("info.cfg", "INFO.CFG")[k])
        text = (folder / "info.cfg" if k == 0 else folder / "INFO.CFG").read_text().lower().replace("\n", "\r\n")
        (folder / ("info.cfg", "INFO.CFG")[k]).write_bytes(text.encode(("utf-8-sig", "utf-16")[k]))
        folder.rename(folder.with_name(folder.name.title()))
    assert same(digests(root), expected)
    assert check(root).name == "ACDC"
    assert not recwarn.list


def test_training_is_read_before_testing_and_what_is_left_aside_is_told(acdc, tmp_path_factory):
    root = tmp_path_factory.mktemp("other")
    shutil.copytree(acdc / "patient002", root / "database/testing/patient102")
    for path in (root / "database/testing/patient102").glob("patient002*"):
        path.rename(path.with_name(path.name.replace("patient002", "patient102")))
    with pytest.warns(UserWarning, match=r"read database/testing, as no training set lies beside it$"):
        assert read_acdc(root, progress=False).patient.unique().tolist() == [102]
    shutil.copytree(acdc / "patient001", root / "database/training/patient001")
    with pytest.warns(UserWarning, match=r"read database/training, and not database/testing$"):
        assert read_acdc(root, progress=False).patient.unique().tolist() == [1]


def test_volumes_may_be_unpacked_or_lie_in_folders_of_their_names(acdc):
    expected = digests(acdc)
    for k, path in enumerate(sorted(acdc.rglob("*.nii.gz"))):
        plain = path.with_suffix("")
        content = gzip.decompress(path.read_bytes())
        if k % 3 == 2:
            plain.write_bytes(b"")  # beside the packed one, which is read
            continue
        path.unlink()
        if k % 3:
            plain.mkdir()
            plain = plain / plain.name
        plain.write_bytes(content)
    assert same(digests(acdc), expected)


def test_one_frame_for_both_phases_is_read_once_and_told(acdc):
    (acdc / "patient001/Info.cfg").write_text("ED: 1\nES: 1\n")
    with pytest.warns(UserWarning, match=r"^[^(]*patient001_frame01\.nii\.gz: Info\.cfg says ED and ES are one frame"):
        data = read_acdc(acdc, progress=False)
    assert (data.patient == 1).sum() == nib.load(acdc / "patient001/patient001_frame01.nii.gz").shape[2]


def test_labels_of_another_challenge_are_mapped_by_name(acdc):
    expected = digests(acdc)
    for path in frames(acdc):
        rewrite(path, lambda voxels: np.choose(voxels, [0, 3, 2, 1]).astype(np.uint8))
    with pytest.warns(UserWarning, match='enclosed by .*labels="LV=1 MYO=2 RV=3"'):
        read_acdc(acdc, progress=False)
    assert same(digests(acdc, labels="LV=1 MYO=2 RV=3"), expected)
    assert same(digests(acdc, labels={"LV cavity": 1, "myocardium": 2, "RV": 3}), expected)
    alone = read_acdc(acdc, size=64, spacing_mm=3.0, progress=False, labels="MYO=2")
    assert torch.equal(alone.masks == 2, expected[1] == 2)
    assert alone.masks.unique().tolist() == [0, 2]
    for path in frames(acdc):
        rewrite(path, lambda voxels: voxels * 100)
    assert same(digests(acdc, labels="LV=100 MYO=200 RV=44"), expected)
    for wrong in ("RV", "RV=0", "liver=1"):
        with pytest.raises(PrrError, match="expected"):
            read_acdc(acdc, labels=wrong)


def test_one_label_where_three_are_named_is_told(acdc):
    for path in frames(acdc):
        rewrite(path, lambda voxels: (voxels == 3).astype(np.uint8))
    with pytest.warns(UserWarning, match="one label only, called RV cavity"):
        read_acdc(acdc, progress=False)
