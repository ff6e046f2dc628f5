"""Image files of every kind become the right pixels, and a damaged file is named."""

import errno
import os
import struct
import warnings
import zlib
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as reference

from resnet_repro.data import jpeg
from resnet_repro.data.jpeg import ORIENTATION, Box, Damaged, read, shorter_side
from resnet_repro.errors import UserError
from tests.helpers.photo_files import PHOTOS, needs_photos, scene


def by_pillow(path):
    with Image.open(path) as image:
        return torch.from_numpy(np.array(ImageOps.exif_transpose(image).convert("RGB"))).permute(2, 0, 1)


@needs_photos
def test_photographs_have_the_pixels_that_pillow_reads():
    for path in sorted(PHOTOS.iterdir()):
        torch.testing.assert_close(read(path), by_pillow(path), rtol=0, atol=0)


def no_pillow(*_):
    raise AssertionError("the slow way")


def assert_rectangles_are_cut_out_of_the_image(path, *, num, atol=0):
    whole, rng = by_pillow(path), np.random.default_rng(0)
    for _ in range(num):
        top, bottom = sorted(rng.choice(whole.shape[1] + 1, 2, replace=False).tolist())
        left, right = sorted(rng.choice(whole.shape[2] + 1, 2, replace=False).tolist())
        box = Box(top, left, bottom - top, right - left)
        torch.testing.assert_close(
            read(path, lambda *_, box=box: box), whole[:, top:bottom, left:right], rtol=0, atol=atol
        )


@needs_photos
def test_a_rectangle_of_a_photograph_is_right_without_pillow(monkeypatch):
    monkeypatch.setattr(jpeg, "_by_pillow", no_pillow)
    for path in sorted(PHOTOS.iterdir()):
        assert_rectangles_are_cut_out_of_the_image(path, num=3)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("more", [{}, {"restart_marker_rows": 1}, {"progressive": True}])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "4:1:1"])
def test_a_rectangle_of_any_kind_of_jpeg_is_right(tmp_path, monkeypatch, mode, more, subsampling):
    path = tmp_path / "image.jpg"
    noise = np.random.default_rng(0).integers(0, 50, (75, 101, 3), np.uint8)
    image = Image.fromarray(np.array(scene(75, 101)) // 2 + noise).convert(mode)
    image.save(path, quality=90, subsampling=subsampling, **more)
    if mode != "CMYK":  # Pillow reads some kinds of CMYK, and ink is rounded
        monkeypatch.setattr(jpeg, "_by_pillow", no_pillow)
    assert_rectangles_are_cut_out_of_the_image(path, num=100, atol=1 if mode == "CMYK" else 0)


def test_a_rectangle_is_of_the_upright_image(tmp_path):
    path, exif = tmp_path / "image.jpg", Image.Exif()
    exif[ORIENTATION] = 6
    scene().save(path, exif=exif)
    content = path.read_bytes()
    assert_rectangles_are_cut_out_of_the_image(path, num=20)
    end = 4 + int.from_bytes(content[4:6], "big")
    other = b"\xff\xe1\x00\x20http://ns.adobe.com/xap/1.0/\x00<"  # a segment of the same kind, after EXIF's
    path.write_bytes(content[:end] + b"\xff" * 3 + other + content[end:])
    assert_rectangles_are_cut_out_of_the_image(path, num=20)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_of_every_mode_is_read_as_rgb(tmp_path, mode):
    path = tmp_path / "image.jpg"
    scene().convert(mode).save(path, quality=95)
    expected = np.array(scene().convert(mode).convert("RGB"), np.int16).transpose(2, 0, 1)
    image = read(path)
    assert (image.dtype, image.shape) == (torch.uint8, (3, 48, 64))
    assert np.abs(image.numpy() - expected).mean() < 3
    torch.testing.assert_close(image, by_pillow(path), rtol=0, atol=1 if mode == "CMYK" else 0)  # ink is rounded


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_a_png_of_every_mode_is_read_as_rgb_under_any_name(tmp_path, mode):
    path = tmp_path / "n02105855_2933.JPEG"  # ImageNet has such a file
    scene().convert(mode).save(path, "PNG")
    expected = np.array(scene().convert(mode).convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(read(path).numpy(), expected)


def save_tiff(path, values, *, bits=16, photometric=1):
    """Write a grey little-endian TIFF of one row byte by byte: Pillow writes none with these values."""
    pixels = values.astype("<u2").tobytes()
    if bits == 12:
        first, second = values.tolist()
        pixels = bytes([first >> 4, (first & 15) << 4 | second >> 8, second & 255])
    tags = [(256, values.size), (257, 1), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, 1)]
    tags.append((279, len(pixels)))
    at = 8 + len(pixels)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    path.write_bytes(struct.pack("<2sHI", b"II", 42, at) + pixels + struct.pack("<H", len(tags)) + entries + bytes(4))


SIXTEEN, EIGHT = np.array([[0, 255, 256, 1000, 32768, 65535]], np.uint16), [0, 0, 1, 3, 128, 255]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_grey_of_sixteen_bits_keeps_its_upper_eight(tmp_path, suffix):
    path = tmp_path / f"image{suffix}"
    Image.fromarray(SIXTEEN).save(path)
    assert read(path).tolist() == [[EIGHT]] * 3


def test_a_tiff_of_twelve_bits_keeps_its_upper_eight(tmp_path):
    save_tiff(tmp_path / "image.tif", np.array([1000, 4095]), bits=12)
    assert read(tmp_path / "image.tif").tolist() == [[[62, 255]]] * 3


def test_colours_of_sixteen_bits_keep_their_upper_eight(tmp_path):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    for colour_type, pixel, expected in ((2, [1000, 32768, 65535], [3, 128, 255]), (4, [1000, 9], [3, 3, 3])):
        header = struct.pack(">IIBBBBB", 1, 1, 16, colour_type, 0, 0, 0)
        row = zlib.compress(b"\0" + np.array(pixel, ">u2").tobytes())
        content = chunk(b"IHDR", header) + chunk(b"IDAT", row) + chunk(b"IEND", b"")
        (tmp_path / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
        assert read(tmp_path / "image.png").flatten().tolist() == expected


def test_a_transparent_palette_shows_its_colours_silently(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "image.png", transparency=b"\x00\x80")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(tmp_path / "image.png").tolist() == [[[10, 40]], [[20, 50]], [[30, 60]]]


def test_black_and_white_of_one_bit_becomes_0_and_255(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "image.png")
    assert read(tmp_path / "image.png").tolist() == [[[255, 0]]] * 3


@pytest.mark.parametrize(
    ("mode", "save"),
    [
        ("F", Image.fromarray(np.ones((2, 2), np.float32)).save),
        ("I", Image.fromarray(np.ones((2, 2), np.int32)).save),
        ("I;16", partial(save_tiff, values=SIXTEEN, photometric=0)),  # the largest value is black
    ],
)
def test_pixels_without_a_known_white_are_named(tmp_path, mode, save):
    save(tmp_path / "image.tif")
    message = rf"image.tif cannot be read \(mode {mode} has no largest value: save it with 8 or 16"
    with pytest.raises(Damaged, match=message):
        read(tmp_path / "image.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_upright_by_its_exif(tmp_path, orientation):
    path, upright = tmp_path / "image.jpg", scene()
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    undo = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)  # the others are their own inverse
    exif_of_undo = Image.Exif()
    exif_of_undo[ORIENTATION] = undo
    stored = upright.copy()
    stored.info["exif"] = exif_of_undo.tobytes()
    stored.getexif()[ORIENTATION] = undo
    ImageOps.exif_transpose(stored).save(path, quality=95, exif=exif)
    image = read(path)
    assert image.shape == (3, 48, 64)
    assert np.abs(image.numpy() - np.array(upright, np.int16).transpose(2, 0, 1)).mean() < 3


def test_a_truncated_jpeg_is_named(tmp_path):
    whole, path = tmp_path / "whole.jpg", tmp_path / "cut.jpg"
    scene(200, 300).save(whole, quality=95)
    path.write_bytes(whole.read_bytes()[:-1000])
    message = r"cut.jpg cannot be read \(.*truncated.*\): replace it, .*data.skip_damaged=true"
    with pytest.raises(Damaged, match=message):
        read(path)


def test_a_missing_end_is_noticed_even_if_upper_rows_are_read(tmp_path):
    whole, path = tmp_path / "whole.jpg", tmp_path / "cut.jpg"
    scene(200, 300).save(whole, quality=95)
    path.write_bytes(whole.read_bytes()[:-2])
    with pytest.raises(Damaged, match=r"cut.jpg cannot be read"):
        read(path, lambda *_: Box(0, 0, 40, 40))


def test_rows_below_the_rectangle_are_not_decoded(tmp_path, monkeypatch):
    path = tmp_path / "image.jpg"
    scene(200, 300).save(path, quality=95)
    content, whole = path.read_bytes(), by_pillow(path)
    at = len(content) * 9 // 10
    path.write_bytes(content[:at] + b"\xff\x00" * 8 + content[at + 16 :])  # an invalid code
    monkeypatch.setattr(jpeg, "_by_pillow", no_pillow)
    assert torch.equal(read(path, lambda *_: Box(20, 0, 80, 300)), whole[:, 20:100])
    with pytest.raises(AssertionError, match="the slow way"):
        read(path)


def test_a_part_of_damaged_codes_equals_the_part_of_the_whole(tmp_path):
    path = tmp_path / "image.jpg"
    scene(200, 300).save(path, quality=95)
    content = path.read_bytes()
    begin = content.index(b"\xff\xda") + 20
    for share in range(19):
        at = begin + share * (len(content) - begin) // 20
        path.write_bytes(content[:at] + b"\xff\x00" * 8 + content[at + 16 :])
        assert torch.equal(read(path, lambda *_: Box(0, 0, 190, 300)), by_pillow(path)[:, :190])


@pytest.mark.parametrize(("suffix", "options"), [("png", {}), ("jpg", {}), ("jpg", {"progressive": True})])
def test_an_image_too_large_to_read_is_named(tmp_path, monkeypatch, suffix, options):
    path = tmp_path / f"image.{suffix}"
    scene(40, 60).save(path, **options)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)
    monkeypatch.setattr(jpeg, "MAX_PIXELS", 2_000)
    message = rf"image\.{suffix} cannot be read \(it has more than 0 million pixels\): replace it"
    with pytest.raises(Damaged, match=message):
        read(path)


def png_of_broken_chunks(path):
    scene().save(path, "PNG")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"IDAT", b"ID\x00T", 1))  # Pillow raises SyntaxError


def png_cut_short(path):
    scene().save(path, "PNG")
    path.write_bytes(path.read_bytes()[:-60])


NO_IMAGES = [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n1234", b"<html>404</html>"]
NO_IMAGES.append(b"II*\x00\x08\x00\x00\x00\x00\x00\x00\x00")  # a TIFF without tags


@pytest.mark.parametrize(
    "make",
    [
        *(partial(Path.write_bytes, data=content) for content in NO_IMAGES),
        *(png_of_broken_chunks, png_cut_short, Path.mkdir, os.mkfifo, lambda path: path.symlink_to("gone")),
    ],
)
@pytest.mark.timeout(20)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_anything_that_cannot_be_read_is_named(tmp_path, make):
    make(tmp_path / "image.jpg")
    message = r"^[^\n]*image.jpg cannot be read \([^\n]+\): replace it, remove it, or pass[^\n]+$"
    with pytest.raises(Damaged, match=message):
        read(tmp_path / "image.jpg")


@pytest.mark.parametrize("error", [IndexError("list index out of range"), KeyError(259), TypeError(), zlib.error("-3")])
def test_any_error_of_a_decoder_names_the_file(tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    scene().save(tmp_path / "image.jpg", "PNG")
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(Damaged, match=r"image.jpg cannot be read \([^)]+\)"):
        read(tmp_path / "image.jpg")


def test_a_missing_file_is_named_in_printable_letters(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9\n\x1b[31m.jpg")
    with pytest.raises(Damaged) as error:
        read(path)
    assert r"caf\udce9\n\x1b[31m.jpg cannot be read (No such file or directory)" in str(error.value)


class Failing(NamedTuple):
    """A file whose reading fails."""

    error: Exception

    def read_bytes(self):
        raise self.error


@pytest.mark.parametrize(
    ("error", "way_out"),
    [
        (
            OSError(errno.EMFILE, "Too many open files"),
            "Too many open files): raise the limit of open files (ulimit -n)",
        ),
        (MemoryError(), "Cannot allocate memory): free some memory, or give a smaller data.num_threads"),
    ],
)
def test_an_error_of_the_machine_is_no_damage(error, way_out):
    with pytest.raises(UserError) as refusal:
        read(Failing(error))
    assert str(refusal.value).endswith(way_out)
    assert not isinstance(refusal.value, Damaged)


def test_harmless_bytes_after_the_pixels_are_no_damage(tmp_path):
    path = tmp_path / "image.jpg"
    scene().save(path, quality=95)
    content = path.read_bytes()
    path.write_bytes(content[:-2] + b"\x00" * 7 + content[-2:])  # "extraneous bytes before marker", as in ImageNet
    torch.testing.assert_close(read(path), by_pillow(path), rtol=0, atol=0)


@pytest.mark.parametrize("size", [20, 48, 100])
@pytest.mark.parametrize(("height", "width"), [(48, 64), (75, 50), (333, 500)])
def test_the_shorter_side_is_resized_as_in_torchvision(height, width, size):
    image = torch.from_numpy(np.array(scene(height, width))).permute(2, 0, 1)
    ours = shorter_side(image, size)
    theirs = reference.resize(scene(height, width), size, InterpolationMode.BILINEAR)
    assert min(ours.shape[1:]) == size
    difference = ours.numpy().astype(int) - np.array(theirs, int).transpose(2, 0, 1)
    assert np.abs(difference).max() <= 1
