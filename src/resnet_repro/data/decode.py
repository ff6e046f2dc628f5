"""From an image file to uint8 pixels, and their resizing. The fast way for JPEG is libjpeg-turbo's."""

import io
import struct
from contextlib import suppress
from typing import Protocol, runtime_checkable

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from resnet_repro.errors import UserError

JPEG, EXIF = b"\xff\xd8", b"Exif\x00\x00"
ORIENTATION = 0x0112  # EXIF's number for it
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation but 1, which is upright."""


@runtime_checkable
class File(Protocol):
    """A path, or what else holds an image file and prints as what names it."""

    def read_bytes(self) -> bytes: ...


class Damaged(UserError):
    """An image file that cannot be read, or not to its end."""

    def __init__(self, path: File, reason: str) -> None:
        super().__init__(f"{path} is damaged ({reason}): replace it, remove it, or pass data.skip_damaged=true")
        self.path, self.reason = path, reason


def read(path: File) -> UInt8[Tensor, "3 h w"]:
    """The image as red, green and blue, upright as its EXIF has it; in memory the three lie side by side.

    JPEG of every kind (grey, CMYK and YCCK too), PNG, and what else Pillow reads.

    Raises:
        Damaged: the file is not there, no image, or cut short.
    """
    return torch.from_numpy(pixels(content(path), path)).permute(2, 0, 1)


def content(path: File) -> bytes:
    """What is in the file.

    Raises:
        Damaged: nothing that can be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise Damaged(path, error.strerror or str(error)) from error


def pixels(content: bytes, path: File) -> UInt8[np.ndarray, "h w 3"]:
    """The image of a file's content, as `read`; `path` is what an error names."""
    if content.startswith(JPEG) and not _has_exif(content):
        with suppress(ValueError):  # what it will not read, or only with a warning, is for Pillow to judge
            return simplejpeg.decode_jpeg(content)
    try:
        with Image.open(io.BytesIO(content)) as image:
            turn = UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
            upright = image if turn is None else image.transpose(turn)
            return np.array(upright.convert("RGB"))
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise Damaged(path, str(error).split(" <")[0]) from error


def _has_exif(content: bytes) -> bool:
    """Whether a JPEG file may say how it is to be turned: in a segment (APP0 to 15, comment) at its beginning."""
    at = len(JPEG)
    while at + 4 <= len(content) and (0xE0 <= content[at + 1] <= 0xEF or content[at + 1] == 0xFE):
        if content.startswith(EXIF, at + 4):
            return True
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return False


def resize(image: UInt8[Tensor, "3 h w"], height: int, width: int) -> UInt8[Tensor, "3 h2 w2"]:
    """Bilinear, each pixel of the result a weighted mean of all that it covers (antialiased), as Pillow does it."""
    if image.shape[1:] == (height, width):
        return image
    beside = image[None].contiguous(memory_format=torch.channels_last)  # half as fast else
    return F.interpolate(beside, (height, width), mode="bilinear", antialias=True)[0]


def shorter_side(image: UInt8[Tensor, "3 h w"], size: int) -> UInt8[Tensor, "3 h2 w2"]:
    """The image resized so that its shorter side has `size` pixels, the longer one in proportion, rounded down."""
    height, width = image.shape[1:]
    short = min(height, width)
    return resize(image, size * height // short, size * width // short)
