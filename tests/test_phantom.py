import hashlib
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import binary_dilation, label

from prr.data import DATA_SETS, LAYOUTS, DataSet, check, read_acdc, t1, write_phantom
from prr.data.volumes import Listing, Volume
from prr.errors import DataError, OptionError

pytestmark = pytest.mark.filterwarnings("ignore:.* labelled pixels are cut off")  # most read few pixels


def digests(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(root.rglob("*")) if path.is_file()}  # fmt: skip


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(phantom_root, tmp_path):
    counts = {"acdc": 1, "t1": 1, "rvsc": 2}
    seeds = {"a": 5, "b": 5, "c": 6}
    one, two, other = (digests(write_phantom(tmp_path / name, counts, seed)) for name, seed in seeds.items())
    assert one == two
    images = [name for name in one if name.endswith((".nii.gz", ".dcm", ".mat"))]
    assert not any(one[name] == other.get(name) for name in images)


def test_a_patient_does_not_depend_on_how_many_there_are(phantom_root, tmp_path):
    few = digests(write_phantom(tmp_path / "few", {"acdc": 1, "t1": 2, "rvsc": 3}))
    many = digests(phantom_root)
    for name in few:
        assert name.startswith("t1") or few[name] == many[name]
    with h5py.File(tmp_path / "few/t1" / t1.FILE) as a, h5py.File(phantom_root / "t1" / t1.FILE) as b:
        for name in a["#refs#"]:
            if a["#refs#"][name].dtype != h5py.ref_dtype:
                assert np.array_equal(a["#refs#"][name], b["#refs#"][name])


def test_each_format_has_its_own_layout(phantom_root):
    patient = phantom_root / "acdc/database/training/patient001"
    info = dict(line.split(": ") for line in (patient / "Info.cfg").read_text().splitlines())
    assert list(info) == ["ED", "ES", "Group", "Height", "NbFrame", "Weight"]
    stems = [f"patient001_frame{int(info[phase]):02d}" for phase in ("ED", "ES")]
    volumes = [f"{stem}{suffix}.nii.gz" for stem in stems for suffix in ("", "_gt")]
    assert {path.name for path in patient.iterdir()} == {"Info.cfg", *volumes}
    assert (phantom_root / "t1" / t1.FILE).read_bytes()[:15] == b"MATLAB 7.3 MAT-"
    listing = (phantom_root / "rvsc/TrainingSet/patient01/P01list.txt").read_bytes().split(b"\r\n")
    assert listing[0].startswith(b".\\patient01\\P01contours-manual\\P01-0000-icontour-manual.txt")
    test_set = sorted(path.name for path in (phantom_root / "rvsc/Test1Set").iterdir())
    assert test_set == ["patient17", "patient18"]


def test_only_what_is_asked_for_is_written(tmp_path):
    assert [path.name for path in write_phantom(tmp_path / "a", {"rvsc": 1, "t1": 0}).iterdir()] == ["rvsc"]
    assert sorted(path.name for path in write_phantom(tmp_path / "b", 1).iterdir()) == ["acdc", "rvsc", "t1"]


def volumes(root: Path):
    """Labels and mm^2 of a pixel of each ED volume and of its ES volume."""
    for patient in sorted((root / "acdc/database/training").iterdir()):
        pair = [nib.load(path) for path in sorted(patient.glob("*_gt.nii.gz"))]
        yield [np.asanyarray(nifti.dataobj) for nifti in pair], np.prod(pair[0].header.get_zooms()[:2])


def test_hearts_are_built_as_hearts_are(phantom_root):
    for (diastole, systole), pixel in volumes(phantom_root):
        # (phase, label, slice), mm^2
        areas = np.array([[(v == c).sum((0, 1)) * pixel for c in (1, 2, 3)] for v in (diastole, systole)])
        assert (areas[1, [0, 2]].sum(1) < areas[0, [0, 2]].sum(1)).all()  # cavities empty
        middle = diastole.shape[2] // 2
        assert areas[1, 1, middle] > areas[0, 1, middle]  # the wall thickens
        assert 800 < areas[0, 2, middle] < 5000  # mm^2; ACDC: 2200, standard deviation 840
        assert 700 < areas[0, 1, middle] < 3500  # 1500, 480
        assert areas[0, 0, 1] > areas[0, 0, -2]  # the RV tapers
        assert areas[0, 2, 1] > areas[0, 2, -1]
        for k in range(diastole.shape[2]):
            ventricle = np.isin(diastole[..., k], (2, 3))
            assert label(ventricle)[1] == 1
            cavity = diastole[..., k] == 3
            assert not (binary_dilation(cavity) & ~ventricle).any()  # the wall closes around the cavity


def test_a_threshold_does_not_segment_them(phantom_root):
    """Liver, fat, atria and chest share the intensities of what is labelled."""
    data = read_acdc(phantom_root / "acdc", progress=False)
    for target in (1, 2, 3):
        truth = (data.masks == target).numpy()
        values = data.images[:, 0].numpy()
        low, high = np.quantile(values[truth], (0.1, 0.9))
        guess = (values >= low) & (values <= high)
        assert 2 * (guess & truth).sum() / (guess.sum() + truth.sum()) < 0.5


@pytest.mark.parametrize("name", DATA_SETS)
def test_what_is_written_is_read_and_checked_alike(phantom_root, name):
    data = DATA_SETS[name].read(phantom_root / name, size=32, split="all", progress=False)
    found = check(phantom_root / name)
    assert data.name == found.name == DATA_SETS[name].title
    assert data.phantom
    assert found.phantom
    assert len(data) == found.slices == len(found.data)
    assert set(data.patient.tolist()) == found.patients
    assert data.masks.unique().tolist() == sorted(found.areas)
    assert found.refused == found.told == []


def test_a_line_in_the_table_is_all_that_a_new_data_set_needs(tmp_path, monkeypatch):
    def write(root, patients, seed):
        (root / "hearts.txt").write_text(f"{patients} {seed}")

    def find(root):
        image = np.random.default_rng(0).normal(size=(2, 9, 9))
        count = int((root / "hearts.txt").read_text().split()[0])
        volumes = [Volume(n, image + n, image > 1, (1.5, 1.5), True, root / f"{n}") for n in range(count)]
        return Listing("Toy", root, [(each.patient, lambda each=each: each) for each in volumes])

    for table in (DATA_SETS, LAYOUTS):
        monkeypatch.setitem(table, "toy", DataSet("Toy", None, find, write))
    root = write_phantom(tmp_path / "a", {"toy": 3}, seed=5)
    assert [path.name for path in root.iterdir()] == ["toy"]
    assert (root / "toy/hearts.txt").read_text() == "3 5"
    found = check(root / "toy", "toy")
    assert (found.name, found.patients, sorted(found.areas), found.refused) == ("Toy", {0, 1, 2}, [0, 1], [])
    with pytest.raises(OptionError, match="acdc, t1, rvsc, toy"):
        write_phantom(tmp_path / "b", {"mnist": 2})
    write_phantom(tmp_path / "b", 1)
    assert {path.name for path in (tmp_path / "b").iterdir()} == set(DATA_SETS)


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setitem(DATA_SETS, "t1", DATA_SETS["t1"]._replace(write=interrupt))
    with pytest.raises(KeyboardInterrupt):
        write_phantom(tmp_path / "a", {"acdc": 1, "t1": 1})
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_refused_and_an_empty_one_taken(tmp_path):
    (tmp_path / "empty").mkdir()
    assert (write_phantom(tmp_path / "empty", {"rvsc": 1}) / "rvsc").is_dir()
    with pytest.raises(DataError, match="in use"):
        write_phantom(tmp_path / "empty", {"rvsc": 1})
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="in use"):
        write_phantom(tmp_path / "file", 1)


@pytest.mark.parametrize("patients", [0, -1, 1.5, {"mnist": 2}, {"acdc": -1}, {}])
def test_counts_that_make_no_sense_are_refused(tmp_path, patients):
    with pytest.raises(OptionError, match="acdc, t1, rvsc"):
        write_phantom(tmp_path / "a", patients)
    assert not list(tmp_path.iterdir())
