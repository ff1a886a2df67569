"""One picture, stored in every way that the standard has, is one picture."""

import struct
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    generate_uid,
)

from prr.data.dicom import read_image
from prr.errors import DataError

PICTURE = np.random.default_rng(0).integers(0, 2000, (12, 10)).astype(np.uint16)


def image(stored: np.ndarray = PICTURE, syntax: str = ExplicitVRLittleEndian, **tags) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = MRImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid(entropy_srcs=["a"])
    data.Rows, data.Columns = stored.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 8 * stored.dtype.itemsize
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(stored.dtype.kind == "i")
    data.PixelSpacing = [1.5, 1.25]
    data.PixelData = stored.astype(stored.dtype.newbyteorder(">" if syntax == ExplicitVRBigEndian else "<")).tobytes()
    for name, value in tags.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    return data


def saved(data: Dataset, path: Path, whole: bool = True) -> Path:
    data.save_as(path, enforce_file_format=whole)
    return path


def table(descriptor: list[int], values: np.ndarray) -> Sequence:
    item = Dataset()
    item.LUTDescriptor, item.ModalityLUTType = descriptor, "US"
    item.add_new("LUTData", "OW", values.astype("<u2").tobytes())
    return Sequence([item])


def grouped(**tags) -> Sequence:
    """Functional groups, as an enhanced image has them."""
    frame, within = Dataset(), Dataset()
    for name, value in tags.items():
        setattr(within, name, value)
    sequence = "PixelMeasuresSequence" if "PixelSpacing" in tags else "PixelValueTransformationSequence"
    setattr(frame, sequence, Sequence([within]))
    return Sequence([frame])


TWELVE = {"BitsStored": 12, "HighBit": 11}
WAYS = {
    "as it is": lambda: image(),
    "twice as much": lambda: image(2 * PICTURE, RescaleSlope=0.5, RescaleIntercept=0),
    "moved": lambda: image(PICTURE + 1024, RescaleSlope=1, RescaleIntercept=-1024),
    "signed": lambda: image(PICTURE.astype(np.int16) - 1000, RescaleSlope=1, RescaleIntercept=1000),
    "turned by a slope": lambda: image(4095 - PICTURE, RescaleSlope=-1, RescaleIntercept=4095),
    "white is least": lambda: image(4095 - PICTURE, PhotometricInterpretation="MONOCHROME1", **TWELVE),
    "white is least, and says so": lambda: image(
        4095 - PICTURE, PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE", **TWELVE
    ),
    "white is least, and half": lambda: image(
        4095 - 2 * PICTURE, PhotometricInterpretation="MONOCHROME1", RescaleSlope=0.5, RescaleIntercept=0, **TWELVE
    ),
    "white is least, and signed": lambda: image(
        (-1 - PICTURE.astype(int)).astype(np.int16), PhotometricInterpretation="MONOCHROME1"
    ),
    "by a table": lambda: image(
        PICTURE % 4096, ModalityLUTSequence=table([4096, 0, 16], np.arange(4096)), **TWELVE
    ),
    "by a table, turned": lambda: image(
        4095 - PICTURE, ModalityLUTSequence=table([4096, 0, 16], np.arange(4096)[::-1]), **TWELVE
    ),
    "in groups": lambda: image(
        2 * PICTURE, SharedFunctionalGroupsSequence=grouped(RescaleSlope=0.5, RescaleIntercept=0)
    ),
    "implicit": lambda: image(syntax=ImplicitVRLittleEndian),
    "one frame": lambda: image(NumberOfFrames=1),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_the_same_picture_comes_back_whatever_way_it_was_stored(tmp_path, way):
    found = read_image(saved(WAYS[way](), tmp_path / "a.dcm"))
    assert np.array_equal(found.pixels, PICTURE)
    assert (found.spacing, found.phantom, found.told) == ((1.5, 1.25), False, ())


def test_what_is_as_it_should_be_stays_as_stored(tmp_path):
    data = image(RescaleSlope=1, RescaleIntercept=0)
    assert read_image(saved(data, tmp_path / "a")).pixels.dtype == np.uint16


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_a_file_without_preamble_and_syntax_is_read_as_uncompressed(tmp_path, syntax):
    data = image(syntax=syntax)
    del data.file_meta
    path = tmp_path / "IM0001"
    data.save_as(path, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True, enforce_file_format=False)
    assert path.read_bytes()[128:132] != b"DICM"
    found = read_image(path)
    assert np.array_equal(found.pixels, PICTURE)
    assert found.told == ("no transfer syntax is stated; read as uncompressed",)


def test_a_run_length_encoded_picture_is_decoded(tmp_path):
    data = image()
    data.compress(RLELossless)
    assert np.array_equal(read_image(saved(data, tmp_path / "a.dcm")).pixels, PICTURE)


def encapsulated(syntax: str) -> Dataset:
    data = image(syntax=syntax)
    data.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51" + bytes(60)])
    data["PixelData"].is_undefined_length = True
    return data


def test_a_missing_plugin_is_named_with_what_installs_it(tmp_path, monkeypatch):
    def missing(self):
        raise RuntimeError("Unable to decompress: all plugins are missing dependencies:\n\tgdcm\n\tpylibjpeg")

    monkeypatch.setattr(FileDataset, "pixel_array", property(missing))
    path = saved(encapsulated(JPEGLSLossless), tmp_path / "a.dcm")
    with pytest.raises(
        DataError, match=r'a\.dcm: .*JPEG-LS.*no plugin for it: python -m pip install "pylibjpeg\[all\]"'
    ):
        read_image(path)


@pytest.mark.parametrize(("tags", "told"), [
    ({"PixelSpacing": None, "ImagerPixelSpacing": [1.5, 1.25]}, "ImagerPixelSpacing is taken"),
    ({"PixelSpacing": None, "NominalScannedPixelSpacing": [1.5, 1.25]}, "NominalScannedPixelSpacing is taken"),
    ({"PixelSpacing": [], "ImagerPixelSpacing": [1.5, 1.25], "NominalScannedPixelSpacing": [9, 9]}, "ImagerPixel"),
    ({"PixelSpacing": None, "SharedFunctionalGroupsSequence": grouped(PixelSpacing=[1.5, 1.25])}, None),
    ({"PixelSpacing": None, "PerFrameFunctionalGroupsSequence": grouped(PixelSpacing=[1.5, 1.25])}, None),
])  # fmt: skip
def test_a_spacing_that_is_not_where_it_should_be_is_looked_for(tmp_path, tags, told):
    found = read_image(saved(image(**tags), tmp_path / "a.dcm"))
    assert found.spacing == (1.5, 1.25)
    assert [told in each for each in found.told] == ([True] if told else [])


@pytest.mark.parametrize(("tags", "message"), [
    ({"PixelSpacing": None}, "none of the tags PixelSpacing, ImagerPixelSpacing, NominalScannedPixelSpacing"),
    ({"PixelSpacing": [0, 0]}, "0.1 to 10 mm"),
    ({"RescaleSlope": 0, "RescaleIntercept": 5}, "not 0, found 0"),
    ({"RescaleSlope": "inf", "RescaleIntercept": 5}, "RescaleSlope, finite and not 0, found inf"),
    ({"RescaleSlope": 1, "RescaleIntercept": "nan"}, "finite RescaleIntercept, found nan"),
    ({"RescaleSlope": 2, "RescaleIntercept": 5, "ModalityLUTSequence": table([2000, 0, 16], np.arange(2000))},
     "both RescaleSlope and ModalityLUTSequence"),
    ({"PresentationLUTShape": "INVERSE"}, "MONOCHROME2 to be shown as IDENTITY, found PresentationLUTShape INVERSE"),
    ({"PresentationLUTShape": "IDENTITY", "PhotometricInterpretation": "MONOCHROME1"}, "shown as INVERSE"),
    ({"PhotometricInterpretation": "PALETTE COLOR"}, "one grey image, .* found PALETTE COLOR"),
    ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "found RGB"),
    ({"Rows": 6, "NumberOfFrames": 2}, r"one grey image, found \(2, 6, 10\)"),
    ({"PixelData": None}, "can't be read"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*for VR DS")
def test_what_is_missing_or_contradicts_itself_is_refused_by_name(tmp_path, tags, message):
    path = saved(image(**tags), tmp_path / "a.dcm")
    with pytest.raises(DataError, match=message) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "get the file again" not in str(caught.value)


def test_compressed_pixels_that_do_not_say_how_are_refused(tmp_path):
    data = encapsulated(JPEG2000Lossless)
    del data.file_meta
    path = tmp_path / "a.dcm"
    data.save_as(path, implicit_vr=False, little_endian=True, enforce_file_format=False)
    with pytest.raises(DataError, match="expected a transfer syntax"):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", bytes(400), struct.pack("<200H", *range(200))])
def test_what_is_no_dicom_is_refused_by_name(tmp_path, content):
    (tmp_path / "a.dcm").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.dcm: expected a DICOM image"):
        read_image(tmp_path / "a.dcm")
