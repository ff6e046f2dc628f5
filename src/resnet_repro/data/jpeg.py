"""Decode image files into uint8 pixels, and resize them. libjpeg-turbo decodes most JPEG files, Pillow the rest."""

import errno
import io
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from PIL import Image
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile
from torch import Tensor

from resnet_repro.errors import UserError, first_words, printable

JPEG, EXIF = b"\xff\xd8", b"Exif\x00\x00"
SEQUENTIAL = {0xC0, 0xC1}
"""Frame markers of JPEG files whose pixels come row by row, Huffman coded."""
GREY_OR_RGB = {1, 3}
"""Numbers of components of a frame that decodes to RGB directly; simplejpeg converts CMYK in a second step."""
START_OF_SCAN, RESTARTS, FILL = 0xDA, 0xDD, 0xFF
MARGIN = 2
"""Rows to decode below the rectangle: colours may be stored at half the height, and are interpolated."""
LEFT_OVER = "extraneous bytes before marker 0xd9"
"""libjpeg's message for bytes between the last row and the end of the file; it reports only its first complaint."""
ORIENTATION = 0x0112  # EXIF tag
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that undoes each EXIF orientation; 1 is upright."""
UNREADABLE = (OSError, SyntaxError, ValueError, struct.error)
"""Exceptions of libjpeg-turbo's decoder, and of Pillow's at a damaged EXIF block."""
MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)
"""The most pixels that Pillow reads: a small file may claim to be an image that no memory holds."""
WAYS_OUT = {
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close files of other programs",
    errno.ENOMEM: "free some memory, or give a smaller data.num_threads",
}
"""Errors of the machine, not of a file, and how to fix them. No file counts as damaged because of them."""
EIGHT_BITS = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"}
"""Modes that Pillow's `convert` turns into RGB correctly; transparent pixels show the colour below."""


@runtime_checkable
class File(Protocol):
    """A path, or another object that holds an image file and prints as its name."""

    def read_bytes(self) -> bytes: ...


class Box(NamedTuple):
    """A rectangle of an image, in its own pixels."""

    top: int
    left: int
    height: int
    width: int


Choose = Callable[[int, int], Box]
"""Takes the height and the width of an image; returns the rectangle to read."""


def everything(height: int, width: int) -> Box:
    """Return the whole image as a rectangle."""
    return Box(0, 0, height, width)


class Damaged(UserError):
    """An image file that cannot be read, or not to its end."""

    def __init__(self, path: File, reason: str) -> None:
        self.what = f"{printable(path)} cannot be read ({reason})"
        super().__init__(f"{self.what}: replace it, remove it, or pass data.skip_damaged=true")


def read(path: File, choose: Choose = everything) -> UInt8[Tensor, "3 h w"]:
    """Return a rectangle of the image as red, green and blue, which lie side by side in memory.

    Reads JPEG of every kind (grey, CMYK and YCCK too), PNG, and the other formats of Pillow, and turns images upright
    by their EXIF. [open: the papers do not say so, and fb.resnet.torch's loader turns no image]
    Rows below the rectangle are decoded only if they have to be. Damage there may go unseen, but not a missing end.

    Args:
        choose: chooses the rectangle; may be called twice.

    Raises:
        Damaged: if the file is missing, no image, cut short, or has pixels of unknown meaning.
        UserError: if the machine can read no file now.
    """
    return torch.from_numpy(pixels(content(path), path, choose)).permute(2, 0, 1)


def content(path: File) -> bytes:
    """Return the content of a file.

    Raises:
        Damaged: if the file cannot be read.
        UserError: if the machine can read no file now.
    """
    try:
        if not isinstance(path, Path):
            return path.read_bytes()
        with open(path, "rb", buffering=0, opener=_without_waiting) as file:
            return file.read() or b""
    except (OSError, MemoryError) as error:
        raise _named(error, path) from error


def _without_waiting(name: str, flags: int) -> int:
    """Open a file without blocking: a run would wait for ever at a pipe with an image's name."""
    return os.open(name, flags | os.O_NONBLOCK)


def _named(error: Exception, path: File) -> UserError:
    """Return the refusal of a file: Damaged, unless the error is the machine's."""
    number = errno.ENOMEM if isinstance(error, MemoryError) else getattr(error, "errno", None)
    if number in WAYS_OUT:
        return UserError(f"{printable(path)} cannot be read ({os.strerror(number)}): {WAYS_OUT[number]}")
    if isinstance(error, Image.DecompressionBombError):
        return Damaged(path, f"it has more than {MAX_PIXELS // 10**6} million pixels")
    return Damaged(path, first_words(error).split(" <")[0])


def pixels(content: bytes, path: File, choose: Choose = everything) -> UInt8[np.ndarray, "h w 3"]:
    """Return a rectangle of a file's content, as `read`; errors name `path`."""
    if content.startswith(JPEG):
        with suppress(*UNREADABLE):  # Pillow judges what libjpeg-turbo refuses or warns of
            return _from_jpeg(content, choose)
    image = _by_pillow(content, path)
    return _cut(image, choose(*image.shape[:2]))


def _cut(image: UInt8[np.ndarray, "h w 3"], box: Box) -> UInt8[np.ndarray, "h2 w2 3"]:
    return image[box.top : box.top + box.height, box.left : box.left + box.width]


def _by_pillow(content: bytes, path: File) -> UInt8[np.ndarray, "h w 3"]:
    try:
        with Image.open(io.BytesIO(content)) as image:
            turn = UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
            upright = image if turn is None else image.transpose(turn)
            return np.array(_of_eight_bits(upright, image).convert("RGB"))
    except Exception as error:  # Pillow's decoders raise anything on bytes that are no image
        raise _named(error, path) from error


def _of_eight_bits(image: Image.Image, opened: Image.Image) -> Image.Image:
    """Return the image in a mode of eight bits a channel. Grey of 16 bits keeps the upper eight, as Pillow does for
    colours.

    Args:
        opened: the image before it was turned upright, which knows its format.

    Raises:
        ValueError: if the format does not say which value is white.
    """
    bits = 16
    if isinstance(opened, TiffImageFile):
        white_is_largest = opened.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 1
        bits = opened.tag_v2.get(BITSPERSAMPLE, (16,))[0] if white_is_largest else 0
    grey = image.mode.startswith("I;16") or (image.mode == "I" and opened.format in ("PNG", "PPM"))
    if grey and bits:
        return Image.fromarray((np.asarray(image) >> (bits - 8)).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA")  # without Pillow's warning
    if image.mode not in EIGHT_BITS:
        raise ValueError(f"mode {image.mode} has no largest value: save it with 8 or 16 bits a channel")
    return image


def _from_jpeg(content: bytes, choose: Choose) -> UInt8[np.ndarray, "h w 3"]:
    """Return the rectangle of a JPEG file, decoded by libjpeg-turbo.

    Raises:
        ValueError, or another of UNREADABLE: if the image is not upright, or the decoder complains.
    """
    frame = restarts = 0
    for marker, begin, end in _segments(content):
        if content.startswith(EXIF, begin) and _orientation(content[begin:end]) != 1:
            raise ValueError("lies on its side")
        if marker in SEQUENTIAL and end >= begin + 6:
            frame = begin
        if marker == RESTARTS:
            restarts = begin
    if frame and not restarts and content[frame + 5] in GREY_OR_RGB:
        height, width = (int.from_bytes(content[at : at + 2], "big") for at in (frame + 1, frame + 3))
        _refuse_too_large(height, width)
        box = choose(height, width)
        image = _upper_rows(content, frame + 1, height, width, num_rows=box.top + box.height)
    else:
        _refuse_too_large(*simplejpeg.decode_jpeg_header(content)[:2])
        image = simplejpeg.decode_jpeg(content)
        box = choose(*image.shape[:2])
    return _cut(image, box)


def _refuse_too_large(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise ValueError("more pixels than Pillow reads of any format")


def _orientation(exif: bytes) -> int:
    tags = Image.Exif()
    tags.load(exif)
    return tags.get(ORIENTATION, 1)


def _segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the marker of each segment of a JPEG file before its pixels, and the beginning and end of its content."""
    at = len(JPEG)
    while at + 4 <= len(content) and content[at] == FILL and content[at + 1] != START_OF_SCAN:
        if content[at + 1] == FILL:
            at += 1
            continue
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        if end > len(content):
            return
        yield content[at + 1], at + 4, end
        at = end


def _upper_rows(content: bytes, at: int, height: int, width: int, *, num_rows: int) -> UInt8[np.ndarray, "h w 3"]:
    """Return at least `num_rows` upper rows of a sequential JPEG file, whose height stands at byte `at`.

    Most of decoding is undoing the Huffman code, row by row. A decoder that reads a smaller height stops after that
    many rows and complains of the remaining bytes. libjpeg has a call for this, but no package from pip offers it.
    """
    lower = num_rows + MARGIN
    if lower >= height:
        return simplejpeg.decode_jpeg(content)
    image = np.empty((lower, width, 3), np.uint8)
    try:
        simplejpeg.decode_jpeg(content[:at] + lower.to_bytes(2, "big") + content[at + 2 :], buffer=image)
    except ValueError as error:
        if LEFT_OVER not in str(error):
            raise
    return image


def resize(
    image: UInt8[Tensor, "3 h w"], height: int, width: int, *, mode: str = "bilinear"
) -> UInt8[Tensor, "3 h2 w2"]:
    """Return the image resized, antialiased as in Pillow: each pixel is a weighted mean of all pixels that it covers.

    [open: the papers do not say how they resize]

    Args:
        mode: `bilinear` or `bicubic`.
    """
    if image.shape[1:] == (height, width):
        return image
    beside = image[None].contiguous(memory_format=torch.channels_last)  # twice as fast
    return F.interpolate(beside, (height, width), mode=mode, antialias=True)[0]


def shorter_side(image: UInt8[Tensor, "3 h w"], size: int, *, mode: str = "bilinear") -> UInt8[Tensor, "3 h2 w2"]:
    """Return the image resized to a shorter side of `size` pixels, the longer side in proportion, rounded down."""
    height, width = image.shape[1:]
    short = min(height, width)
    return resize(image, size * height // short, size * width // short, mode=mode)
