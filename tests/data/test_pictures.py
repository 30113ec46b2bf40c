"""A user's picture becomes the colours that a viewer shows, whatever its file holds."""

import contextlib
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npnet.data.pictures import read_pictures
from npnet.errors import NpnetError
from tests.in_time import in_time

Image = pytest.importorskip("PIL.Image", reason="Pillow is in the `images` extra")

# 16-bit numbers, and what part of white they are in 256 steps, by hand: 0xHHHH is 0xHH twice.
DEEP = np.array([[0, 0xFFFF], [0x6464, 0x8080]], np.uint16)
GREY = np.array([[0, 255], [100, 128]], np.uint8)


def colours(path: Path) -> list[tuple[int, ...]]:
    """Of a picture's pixels, row by row."""
    (pixels,) = read_pictures(path, 2)
    assert pixels.dtype == np.uint8
    return [tuple(map(int, pixel)) for pixel in pixels.reshape(-1, 3)]


def greys(path: Path) -> list[int]:
    found = colours(path)
    assert all(len(set(pixel)) == 1 for pixel in found)
    return [pixel[0] for pixel in found]


def tiff(values: list[int], bits: int, white_is_zero: bool = False) -> bytes:
    """A little TIFF of one row per two numbers, as no version of Pillow writes it."""
    text = "".join(
        "".join(f"{value:0{bits}b}" for value in values[row : row + 2])
        for row in range(0, len(values), 2)
    )
    data = bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
    if bits == 16:
        data = np.frombuffer(data, ">u2").astype("<u2").tobytes()
    rows = len(values) // 2
    tags = {
        256: 2,  # width
        257: rows,
        258: bits,
        259: 1,  # not compressed
        262: 0 if white_is_zero else 1,
        273: 8,  # where the data lies
        277: 1,  # a number for each pixel
        278: rows,
        279: len(data),
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory


@pytest.mark.parametrize("name", ["deep.png", "deep.tif", "deep.pgm"])
def test_sixteen_bits_become_eight(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    Image.fromarray(DEEP).save(path)
    assert greys(path) == [0, 255, 100, 128]


def test_sixteen_bits_the_other_way_round(tmp_path: Path) -> None:
    Image.frombytes("I;16B", (2, 2), DEEP.astype(">u2").tobytes()).save(tmp_path / "deep.tif")
    assert greys(tmp_path / "deep.tif") == [0, 255, 100, 128]


def test_what_lies_between_two_steps_is_rounded(tmp_path: Path) -> None:
    between = np.array([[128, 129], [65535 - 129, 65535 - 128]], np.uint16)
    Image.fromarray(between).save(tmp_path / "deep.png")
    assert greys(tmp_path / "deep.png") == [0, 1, 254, 255]


def test_a_picture_of_maximum_1023(tmp_path: Path) -> None:
    values = np.array([0, 1023, 512, 256], ">u2").tobytes()
    (tmp_path / "deep.pgm").write_bytes(b"P5 2 2 1023\n" + values)
    assert greys(tmp_path / "deep.pgm") == [0, 255, 128, 64]


def test_twelve_bits(tmp_path: Path) -> None:
    (tmp_path / "deep.tif").write_bytes(tiff([0, 4095, 2048, 1024], 12))
    assert greys(tmp_path / "deep.tif") == [0, 255, 128, 64]


def test_a_negative_of_sixteen_bits(tmp_path: Path) -> None:
    (tmp_path / "deep.tif").write_bytes(tiff([0, 65535, 0x6464, 0x8080], 16, white_is_zero=True))
    assert greys(tmp_path / "deep.tif") == [255, 0, 155, 127]


def test_one_of_sixteen_bits_is_clear(tmp_path: Path) -> None:
    Image.fromarray(DEEP).save(tmp_path / "deep.png", transparency=0x6464)
    assert greys(tmp_path / "deep.png") == [0, 255, 255, 128]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_numbers_without_a_white_are_refused(tmp_path: Path, dtype: type) -> None:
    Image.fromarray(GREY.astype(dtype)).save(tmp_path / "numbers.tif")
    with pytest.raises(NpnetError) as caught:
        read_pictures(tmp_path / "numbers.tif", 32)
    assert str(tmp_path / "numbers.tif") in str(caught.value)
    assert "no white" in str(caught.value)
    assert str(caught.value).endswith("save it with 8 or 16 bits for each pixel and colour")


def test_plain_modes(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "grey.png")
    assert greys(tmp_path / "grey.png") == [0, 255, 100, 128]
    Image.fromarray(GREY > 110).save(tmp_path / "bits.png")
    assert greys(tmp_path / "bits.png") == [0, 255, 0, 255]
    # Ink: all of cyan takes red away, all of black everything.
    ink = np.array([[[255, 0, 0, 0], [0, 0, 0, 255]], [[0, 0, 0, 0], [0, 255, 255, 0]]], np.uint8)
    Image.frombytes("CMYK", (2, 2), ink.tobytes()).save(tmp_path / "ink.tif")
    expected = [(0, 255, 255), (0, 0, 0), (255, 255, 255), (255, 0, 0)]
    assert colours(tmp_path / "ink.tif") == expected


# Opaque red, clear, half of blue, black; on white.
SEEN = [(255, 0, 0), (255, 255, 255), (127, 127, 255), (0, 0, 0)]
ALPHA = np.array([[[255, 0, 0, 255], [9, 9, 9, 0]], [[0, 0, 255, 128], [0, 0, 0, 255]]], np.uint8)


def test_what_is_clear_is_white(tmp_path: Path) -> None:
    Image.fromarray(ALPHA).save(tmp_path / "colour.png")
    assert colours(tmp_path / "colour.png") == SEEN
    grey = np.array([[[100, 255], [9, 0]], [[0, 128], [0, 255]]], np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert greys(tmp_path / "grey.png") == [100, 255, 127, 0]


def test_a_palette_with_clear_colours(tmp_path: Path) -> None:
    picture = Image.frombytes("P", (2, 2), bytes(range(4)))
    picture.putpalette([255, 0, 0, 9, 9, 9, 0, 0, 255, 0, 0, 0])
    picture.save(tmp_path / "several.png", transparency=bytes([255, 0, 128, 255]))
    assert colours(tmp_path / "several.png") == SEEN
    for name in ("one.png", "one.gif"):
        picture.save(tmp_path / name, transparency=1)
        assert colours(tmp_path / name) == [*SEEN[:2], (0, 0, 255), SEEN[3]]
    picture.save(tmp_path / "none.png")
    assert colours(tmp_path / "none.png") == [SEEN[0], (9, 9, 9), (0, 0, 255), SEEN[3]]


def test_a_colour_that_stands_for_clear(tmp_path: Path) -> None:
    Image.fromarray(ALPHA[..., :3]).save(tmp_path / "colour.png", transparency=(9, 9, 9))
    assert colours(tmp_path / "colour.png") == [*SEEN[:2], (0, 0, 255), SEEN[3]]
    Image.fromarray(GREY).save(tmp_path / "grey.png", transparency=100)
    assert greys(tmp_path / "grey.png") == [0, 255, 255, 128]
    Image.fromarray(GREY > 110).save(tmp_path / "bits.png", transparency=0)
    assert greys(tmp_path / "bits.png") == [255, 255, 255, 255]


def test_a_picture_that_lies_on_its_side(tmp_path: Path) -> None:
    """Turned by what its camera noted, of 16 bits and half clear too."""
    for name, pixels, expected in (
        ("deep", DEEP, [0x64, 0, 128, 255]),
        ("clear", ALPHA[..., 3], [128, 255, 255, 0]),
    ):
        picture = Image.fromarray(pixels)
        exif = picture.getexif()
        exif[0x0112] = 6  # to be turned clockwise
        picture.save(tmp_path / f"{name}.png", exif=exif)
        assert greys(tmp_path / f"{name}.png") == expected


@pytest.mark.parametrize("dtype", [np.uint16, np.int64, np.float32, np.bool_])
def test_an_array_of_other_numbers_is_refused(tmp_path: Path, dtype: type) -> None:
    """Nobody knows which of them is white."""
    np.save(tmp_path / "numbers.npy", np.ones((4, 4, 3), dtype))
    with pytest.raises(NpnetError) as caught:
        read_pictures(tmp_path / "numbers.npy", 32)
    name = np.dtype(dtype).name
    assert f"numbers.npy holds {name} (4, 4, 3): give uint8" in str(caught.value)
    assert "from 0 to 255" in str(caught.value)


# --- files that are not what they seem


def refusal(path: Path) -> str:
    with in_time(), pytest.raises(NpnetError) as caught:
        read_pictures(path, 32)
    assert path.name in str(caught.value)
    return str(caught.value)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("name", ["a.eps", "a.jpg", "a.ps"])
def test_no_program_is_started_on_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Pillow has Ghostscript draw an EPS, by whatever name it comes."""
    for program in ("gs", "gswin64c"):
        (tmp_path / program).write_text("#!/bin/sh\ntouch started\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # it is looked for once
    (tmp_path / name).write_bytes(EPS)
    assert "none of JPEG, PNG" in refusal(tmp_path / name)
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("name", ["a.ico", "a.pcx", "a.sgi", "a.tga", "a.icns"])
def test_other_formats_are_refused(tmp_path: Path, name: str) -> None:
    try:
        Image.fromarray(GREY).convert("RGB").resize((32, 32)).save(tmp_path / name)
    except (OSError, KeyError, ValueError):
        pytest.skip("this Pillow does not write it")
    assert "none of JPEG, PNG" in refusal(tmp_path / name)


@pytest.mark.parametrize("across", [8001, 20_000, 10**9])
def test_a_picture_of_too_many_pixels(tmp_path: Path, across: int) -> None:
    (tmp_path / "bomb.ppm").write_bytes(f"P6 {across} {across} 255\n".encode())
    assert "pixels" in refusal(tmp_path / "bomb.ppm")


def test_an_array_of_too_many_pixels(tmp_path: Path) -> None:
    words = b"{'descr': '|u1', 'fortran_order': False, 'shape': (9000, 9000, 3), }\n"
    head = b"\x93NUMPY\1\0" + len(words).to_bytes(2, "little") + words
    with (tmp_path / "bomb.npy").open("wb") as file:
        file.write(head)
        file.truncate(len(head) + 9000 * 9000 * 3)  # takes no place on the disk
    assert "81,000,000 pixels: give 64,000,000 at most" in refusal(tmp_path / "bomb.npy")
    (tmp_path / "bomb.npy").write_bytes(head)
    assert "does not fit" in refusal(tmp_path / "bomb.npy")


@pytest.mark.parametrize("name", ["pipe.png", "pipe.npy"])
def test_a_pipe_does_not_wait(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    assert "a pipe or a device" in refusal(tmp_path / name)


def test_a_device_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    assert "a pipe or a device" in refusal(tmp_path / "zero.png")
    (tmp_path / "folder.png").mkdir()
    assert "Is a directory" in refusal(tmp_path / "folder.png")


def test_broken_notes_do_no_harm(tmp_path: Path) -> None:
    """Of the camera, and of colours: a picture is what its pixels say."""
    exif = b"Exif\0\0MM\0*\0\0\0\10\0\4\1\22\0\3" + b"\xff" * 40
    picture = Image.fromarray(GREY)
    for name in ("notes.png", "notes.jpg", "notes.webp"):
        picture.convert("RGB").save(
            tmp_path / name, exif=exif, icc_profile=b"no profile", lossless=True, quality=100
        )
        assert [min(pixel) for pixel in colours(tmp_path / name)] == pytest.approx(
            [0, 255, 100, 128], abs=6
        )


@pytest.mark.filterwarnings("error")
@given(
    name=st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "BMP", "PPM"]),
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_mutants(
    tmp_path_factory: pytest.TempPathFactory, name: str, changes: list[tuple[int, int]]
) -> None:
    """A broken picture is a picture or one NpnetError. (TIFF's library prints by itself.)"""
    path = tmp_path_factory.getbasetemp() / "mutant.picture"
    picture = Image.fromarray(ALPHA[..., :3]).resize((24, 24))
    exif = picture.getexif()
    exif[0x0112] = 6
    more = {"exif": exif} if name in ("JPEG", "PNG", "WEBP") else {}
    picture.save(path, name, **more)
    data = bytearray(path.read_bytes())
    for place, byte in changes:
        data[place % len(data)] = byte
    path.write_bytes(data)
    with contextlib.suppress(NpnetError):
        assert read_pictures(path, 32).shape[-1] == 3
