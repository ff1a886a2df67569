"""DICOM: one grey image and the size of its pixels, the same whatever way it was stored.

Source: DICOM PS3.3, C.7.6.3 (image pixel), C.11.1 (modality LUT), 10.7 (basic pixel spacing).
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
from pydicom.pixels import apply_modality_lut
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from prr.data.volumes import PHANTOM_MARK, SCANNERS, check_spacing, reading
from prr.errors import DataError

SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")  # the first one that is there
GROUPS = ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")
WITHIN = ("PixelMeasuresSequence", "PixelValueTransformationSequence")  # of these
PRESENTED = {"MONOCHROME1": "INVERSE", "MONOCHROME2": "IDENTITY"}  # a grey image, and how it has to be shown
ENCAPSULATED = b"\xfe\xff\x00\xe0"


class Image(NamedTuple):
    """One image."""

    pixels: np.ndarray  # (h, w), brighter is more; as stored where nothing was to be done
    spacing: tuple[float, float]  # mm between rows, mm between columns
    phantom: bool
    told: tuple[str, ...]  # a sentence each: what was taken for what a file should say


def read_image(path: Path) -> Image:
    """The pixels of a file, rescaled as it says and white where the signal is strong.

    Args:
        path: with or without a preamble, of any transfer syntax that an installed plugin decodes.

    Raises:
        DataError: no DICOM image, colour, several frames, no pixel spacing, or tags that contradict each other.

    Example:
        >>> import tempfile
        >>> from prr.data import write_phantom
        >>> from prr.data.dicom import read_image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = sorted(write_phantom(f"{folder}/data", {"rvsc": 1}).rglob("*.dcm"))[0]
        ...     found = read_image(path)
        >>> sorted(found.pixels.shape), found.phantom, found.told
        ([216, 256], True, ())
    """
    with reading(path, "a DICOM image with its pixel spacing"):
        data = pydicom.dcmread(path, force=True)
        if "Rows" not in data:
            raise DataError("expected a DICOM image, found no such file by its tags")
        told = _uncompressed(data)
        _check(data)
        stored = _pixels(data)
        pixels, ends = _rescaled(data, stored)
        if data.PhotometricInterpretation == "MONOCHROME1":
            pixels = sum(ends) - pixels
        tag, spacing = next(((tag, each) for tag in SPACINGS if (each := _stated(data, tag))), (None, None))
        if tag is None:
            raise DataError(f"expected a pixel spacing, found none of the tags {', '.join(SPACINGS)}")
        if tag != SPACINGS[0]:
            told.append(f"no {SPACINGS[0]}; {tag} is taken, which may differ from the size in the patient")
        return Image(pixels, check_spacing(spacing, *SCANNERS), data.get("Manufacturer") == PHANTOM_MARK, tuple(told))


def _stated(data: pydicom.Dataset, tag: str) -> Any:
    """The value of a tag, of the image itself or of its only frame; None where it has none."""
    places = [data]
    for group in GROUPS:
        for frame in (data.get(group) or [])[:1]:
            places += [each for within in WITHIN for each in (frame.get(within) or [])[:1]]
    values = [each.get(tag) for each in places]
    return next((value for value in values if value not in (None, "", [])), None)


def _uncompressed(data: pydicom.Dataset) -> list[str]:
    """Where a file doesn't say how it is encoded, say so as it was read."""
    if not hasattr(data, "file_meta"):
        data.file_meta = pydicom.dataset.FileMetaDataset()
    if "TransferSyntaxUID" in data.file_meta:
        return []
    if data.get("PixelData", b"").startswith(ENCAPSULATED):
        raise DataError("expected a transfer syntax, found none beside compressed pixels; export the image again")
    implicit, little = data.original_encoding
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return ["no transfer syntax is stated; read as uncompressed"]


def _check(data: pydicom.Dataset) -> None:
    """Refuse colour, and tags that contradict each other."""
    grey = data.get("PhotometricInterpretation", "none")
    if grey not in PRESENTED or data.get("SamplesPerPixel", 1) != 1:
        raise DataError(f"expected one grey image, MONOCHROME1 or MONOCHROME2, found {grey}")
    shape = data.get("PresentationLUTShape") or PRESENTED[grey]
    if shape in PRESENTED.values() and shape != PRESENTED[grey]:
        raise DataError(f"expected {grey} to be shown as {PRESENTED[grey]}, found PresentationLUTShape {shape}")
    slope, intercept = _stated(data, "RescaleSlope"), _stated(data, "RescaleIntercept")
    if data.get("ModalityLUTSequence") and (slope, intercept) != (None, None):
        raise DataError("expected one way to rescale pixels, found both RescaleSlope and ModalityLUTSequence")
    if slope is not None and not (np.isfinite(slope) and slope != 0):
        raise DataError(f"expected a RescaleSlope, finite and not 0, found {slope}")
    if intercept is not None and not np.isfinite(intercept):
        raise DataError(f"expected a finite RescaleIntercept, found {intercept}")


def _pixels(data: pydicom.Dataset) -> np.ndarray:
    """(h, w) as stored."""
    try:
        pixels = data.pixel_array
    except RuntimeError as error:
        if "missing dependencies" not in str(error):
            raise
        raise DataError(
            f"expected pixels that can be decoded, found {data.file_meta.TransferSyntaxUID.name} and no plugin for it: "
            'python -m pip install "pylibjpeg[all]"'
        ) from error
    if pixels.ndim != 2:
        raise DataError(f"expected one grey image, found {pixels.shape}")
    return pixels


def _rescaled(data: pydicom.Dataset, stored: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Pixels in the unit of their modality, and the values of the least and the most that can be stored."""
    if data.get("ModalityLUTSequence"):
        return apply_modality_lut(stored, data), (0, 2 ** data.ModalityLUTSequence[0].LUTDescriptor[2] - 1)
    slope, intercept = (_stated(data, f"Rescale{name}") for name in ("Slope", "Intercept"))
    slope, intercept = 1.0 if slope is None else float(slope), float(intercept or 0)
    least = -(2 ** (data.BitsStored - 1)) if data.get("PixelRepresentation") else 0
    ends = (slope * least + intercept, slope * (least + 2**data.BitsStored - 1) + intercept)
    return (stored if (slope, intercept) == (1, 0) else stored * slope + intercept), ends
