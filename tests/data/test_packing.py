"""A folder is packed once, goes on after a kill, follows what changes, and names what is broken."""

import hashlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from npnet.data import packed, packing
from npnet.data.packed import PackedImages
from npnet.errors import NpnetError
from tests.data.image_folders import (
    SIZE,
    Heard,
    Image,
    greys,
    opened,
    write_folder,
    write_picture,
)
from tests.launch import SOURCES, clean_environment


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "pets", train=3, test=1)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the pictures that are decoded, as they are."""
    names: list[str] = []
    read_square = packing.read_square

    def noted(path: Path, size: int):
        names.append("/".join(path.parts[-3:]))
        return read_square(path, size)

    monkeypatch.setattr(packing, "read_square", noted)
    return names


def refusal(root: Path, **how) -> str:
    with pytest.raises(NpnetError) as caught:
        opened(root, **how)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_is_a_dataset(root: Path) -> None:
    pets = opened(root)
    assert (pets.name, pets.location, pets.resident) == ("pets", str(root), False)
    assert pets.classes == ("cat", "dog")
    assert pets.image_size == SIZE
    assert [pets.size(split) for split in ("train", "val", "test")] == [6, 0, 2]
    assert greys(pets) == [10, 11, 12, 13, 14, 15]
    some = pets.read("train", np.array([4, 0, 4]))
    assert some.pixels[:, 0, 0, 0].tolist() == [14, 10, 14]
    assert some.labels.tolist() == pets.labels("train")[[4, 0, 4]].tolist() == [1, 0, 1]
    assert some.labels.dtype == np.int64
    assert pets.read("test", np.array([1])).pixels[0, 0, 0].tolist() == [17, 17, 17]
    assert pets.file("test", 1) == "test/dog/0.png"
    Path(pets.path).unlink()  # its pixels, too, are read from the file that is open
    assert pets.file("test", 1) == "test/dog/0.png"


def test_it_is_packed_once(root: Path, read: list[str]) -> None:
    first, heard = opened(root), Heard()
    assert len(read) == 8
    second = opened(root, packing=heard)
    assert len(read) == 8
    assert heard.lines == heard.steps == []
    assert first.digest() == second.digest()
    assert sorted(os.listdir(root)) == [".npnet-4.pack", "test", "train"]


def test_the_file_alone_is_the_same_dataset(root: Path, tmp_path: Path) -> None:
    pets = opened(root)
    shutil.move(root / ".npnet-4.pack", tmp_path / "all pets.pack")
    shutil.rmtree(root)
    alone = PackedImages(tmp_path / "all pets.pack")
    assert (alone.name, alone.digest()) == ("all pets", pets.digest())
    assert greys(alone) == [10, 11, 12, 13, 14, 15]


def test_the_same_images_elsewhere_have_the_same_digest(root: Path, tmp_path: Path) -> None:
    """Whatever the dates and names of their files."""
    other = shutil.copytree(root, tmp_path / "copy")
    (other / "train/cat/2.png").rename(other / "train/cat/3.png")
    os.utime(other / "train/cat/0.png", (1, 1))
    assert opened(other).digest() == opened(root).digest()
    write_picture(other / "train/cat/0.png", 99)
    assert opened(other).digest() != opened(root).digest()


def test_progress_is_told(root: Path) -> None:
    heard = Heard()
    opened(root, packing=heard)
    assert heard.steps[-1] == (8, 8)
    assert heard.lines[-1].startswith(f"8 images are packed in {root}/.npnet-4.pack, ")


# What a picture becomes


def test_the_centre_square_is_scaled(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "pets", train=1)
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 20:60] = 200
    Image.fromarray(pixels).save(root / "train/cat/0.png")
    Image.fromarray(pixels.transpose(1, 0, 2).copy()).save(root / "train/dog/0.png")
    wide, high = opened(root).read("train", np.arange(2)).pixels
    np.testing.assert_array_equal(wide, high.transpose(1, 0, 2))
    assert (wide[:, 1:-1] > 195).all()
    assert (wide > 150).all()  # the filter reaches a little beyond the square


def test_a_small_picture_is_made_larger(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "pets", train=1)
    write_picture(root / "train/cat/0.png", 77, side=1)
    assert greys(opened(root)) == [77, 11]


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.bmp", "a.gif", "a.tif", "a.jpeg"])
def test_formats(tmp_path: Path, name: str) -> None:
    root = write_folder(tmp_path / "pets", train=1)
    write_picture(root / "train/cat" / name, 130)
    assert greys(opened(root))[1] == 130


def test_an_animation_s_first_picture(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "pets", train=1)
    first, second = (Image.new("RGB", (8, 8), (grey,) * 3) for grey in (60, 90))
    for name in ("a.gif", "b.webp"):
        first.save(root / "train/cat" / name, save_all=True, append_images=[second], lossless=True)
    assert greys(opened(root))[1:3] == [60, 60]


def test_cmyk_jpeg_and_a_large_one_on_its_side(tmp_path: Path) -> None:
    """A large JPEG is decoded in few pixels, and turned."""
    root = write_folder(tmp_path / "pets", train=1)
    ink = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    ink.save(root / "train/cat/0.png".replace("0.png", "1.jpg"), quality=100)
    pixels = np.zeros((400, 800, 3), np.uint8)
    pixels[:, :400] = 250  # left, which will be above
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(pixels).save(root / "train/cat/2.jpg", exif=exif)
    pets = opened(root)
    red, turned = pets.read("train", np.array([1, 2])).pixels.astype(int)
    assert np.abs(red - (255, 0, 0)).max() < 8
    assert turned[0].min() > 240
    assert turned[-1].max() < 10


# Files that change


def test_what_changed_is_packed_again(root: Path, read: list[str]) -> None:
    opened(root)
    read.clear()
    write_picture(root / "train/cat/1.png", 50)
    (root / "train/dog/2.png").unlink()
    write_picture(root / "test/dog/new.png", 60)
    heard = Heard()
    pets = opened(root, packing=heard)
    assert greys(pets) == [10, 50, 12, 13, 14]
    assert greys(pets, "test") == [16, 17, 60]
    assert sorted(read) == ["test/dog/new.png", "train/cat/1.png"]  # the rest is copied
    assert f"{root} has changed since it was packed" in heard.lines


def test_a_dataset_that_is_open_stays_as_it_was(root: Path) -> None:
    before = opened(root)
    write_picture(root / "train/cat/0.png", 50)
    assert greys(opened(root))[0] == 50
    assert greys(before)[0] == 10


# Files that are no images


def spoil(root: Path) -> dict[str, str]:
    """Spoil files of `cat`; the reason for each."""
    cat = root / "train/cat"
    write_picture(cat / "cut.jpg", 9, side=64)
    (cat / "cut.jpg").write_bytes((cat / "cut.jpg").read_bytes()[:-100])
    (cat / "empty.png").touch()
    (cat / "gone.png").symlink_to(root / "nowhere")
    (cat / "huge.ppm").write_bytes(b"P6 20000 20000 255\n")
    (cat / "loop.png").symlink_to("loop.png")
    (cat / "notes.txt").write_text("two cats\n")
    os.mkfifo(cat / "pipe.png")
    return {
        "cut.jpg": "runcated",
        "empty.png": "it is empty",
        "gone.png": "No such file",
        "huge.ppm": "pixels",
        "loop.png": "symbolic links",
        "notes.txt": "none of JPEG",
        "pipe.png": "a pipe or a device",
    }


def test_all_that_is_damaged_is_named_at_once(root: Path) -> None:
    reasons = spoil(root)
    line = refusal(root)
    assert line.startswith(f"{root}: 7 of 15 files are no usable images: train/cat/cut.jpg: ")
    parts = line.split("; ")
    for part, (name, reason) in zip(parts, sorted(reasons.items()), strict=True):
        assert f"train/cat/{name}" in part
        assert reason in part
    assert line.endswith("mend or remove them, or leave them out with `skip_damaged`")
    assert refusal(root) == line  # and once more


def test_many_are_counted_and_data_pack_names_all(root: Path) -> None:
    for number in range(100):
        (root / f"train/dog/x{number:03}.png").touch()
    with pytest.raises(packing.UnusableFiles) as caught:
        opened(root)
    assert "100 of 108 files" in str(caught.value)
    assert len(str(caught.value)) < 1100
    assert f"; and {len(caught.value.not_shown)} more, which npnet data pack" in str(caught.value)
    shown = str(caught.value).count("it is empty")
    assert shown + len(caught.value.not_shown) == 100


def test_what_is_damaged_is_left_out(root: Path, read: list[str]) -> None:
    spoil(root)
    heard = Heard()
    pets = opened(root, skip_damaged=True, packing=heard)
    assert greys(pets) == [10, 11, 12, 13, 14, 15]
    assert pets.size("test") == 2
    assert pets.left_out == 7
    assert "7 files that are no usable images are left out" in heard.lines
    read.clear()
    assert opened(root, skip_damaged=True).digest() == pets.digest()
    assert read == []
    assert "7 of 15 files" in refusal(root)  # which were not forgotten


def test_the_good_ones_are_kept_while_others_are_mended(root: Path, read: list[str]) -> None:
    (root / "train/cat/1.png").write_bytes(b"")
    refusal(root)
    read.clear()
    write_picture(root / "train/cat/1.png", 70)
    assert greys(opened(root)) == [10, 70, 12, 13, 14, 15]
    assert read == ["train/cat/1.png"]


def test_a_class_without_an_image_leaves_nothing(root: Path) -> None:
    for path in (root / "train/cat").iterdir():
        path.write_text("no picture")
    for skip in (False, True):
        assert "3 of 8 files" in refusal(root, skip_damaged=skip)
        assert sorted(os.listdir(root)) == ["test", "train"]


# What may befall the packing


KILL = """
import os, signal, sys
from pathlib import Path
from npnet.data import packing
read_square, count = packing.read_square, [0]
def die(path, size):
    count[0] += 1
    if count[0] > {after}:
        os.kill(os.getpid(), signal.SIGKILL)
    return read_square(path, size)
packing.read_square = die
packing.node_cores = lambda: 1
packing.WAITING = 0
packing.open_folder(Path(sys.argv[1]), {size})
"""


def python(script: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=clean_environment() | {"PYTHONPATH": str(SOURCES)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_packing_that_is_killed_goes_on(root: Path, read: list[str]) -> None:
    process = python(KILL.format(after=5, size=SIZE), root)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    part = root / ".npnet-4.pack.part"
    assert part.exists()
    with part.open("r+b") as file:  # as a loss of power may leave it: an image that says it is done
        file.seek(packed.OpenFile(part, sealed=False).places.slot(1))
        file.write(b"\xee")
    heard = Heard()
    pets = opened(root, packing=heard)
    assert f"Goes on with {part}" in heard.lines
    assert greys(pets) == [10, 11, 12, 13, 14, 15]
    assert "train/cat/1.png" in read
    assert "train/cat/0.png" not in read
    assert len(read) <= 5
    assert sorted(os.listdir(root)) == [".npnet-4.pack", "test", "train"]


def test_a_part_of_other_files_is_begun_again(root: Path) -> None:
    process = python(KILL.format(after=5, size=SIZE), root)
    process.communicate(timeout=60)
    write_picture(root / "train/cat/0.png", 50)
    assert greys(opened(root))[0] == 50
    (root / ".npnet-4.pack").unlink()
    (root / ".npnet-4.pack.part").write_bytes(b"half of somethi")
    assert greys(opened(root))[0] == 50


SLOW = """
import sys, time
from pathlib import Path
from npnet.data import packing
read_square, read = packing.read_square, []
def slow(path, size):
    read.append(path)
    time.sleep(0.05)
    return read_square(path, size)
packing.read_square = slow
packing.open_folder(Path(sys.argv[1]), {size})
print(len(read))
"""


def test_of_two_processes_one_packs(root: Path) -> None:
    processes = [python(SLOW.format(size=SIZE), root) for _ in range(2)]
    counts = sorted(int(process.communicate(timeout=60)[0]) for process in processes)
    assert counts == [0, 8]


def test_who_waits_sees_how_far_the_other_is(root: Path) -> None:
    process = python(SLOW.format(size=SIZE).replace("0.05", "0.2"), root)
    while not (root / ".npnet-4.pack.part").exists():
        assert process.poll() is None
    heard = Heard()
    pets = opened(root, packing=heard)
    assert greys(pets) == [10, 11, 12, 13, 14, 15]
    assert heard.steps
    assert all(0 <= done <= total == 8 for done, total in heard.steps)
    assert process.communicate(timeout=60)[0] == "8\n"


def test_a_folder_that_cannot_be_written(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != root and access(path, mode))
    monkeypatch.setenv("NPNET_CACHE", str(tmp_path / "cache"))
    pets = opened(root)
    assert greys(pets) == [10, 11, 12, 13, 14, 15]
    assert sorted(os.listdir(root)) == ["test", "train"]
    assert pets.path.parent == tmp_path / "cache/images"
    assert opened(root).path == pets.path


@pytest.mark.parametrize("check", [False, True])
def test_a_packed_file_that_cannot_be_renewed_where_it_is(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: bool
) -> None:
    """A file of it was refused, and can be read now; what is as it should be stays in use."""
    monkeypatch.setenv("NPNET_CACHE", str(tmp_path / "cache"))

    def fail(path: Path, size: int):
        if path.name == "1.png":
            raise NpnetError(f"cannot read the picture {path}: Permission denied")
        return packing_read(path, size)

    packing_read, access = packing.read_square, os.access
    with monkeypatch.context() as patch:
        patch.setattr(packing, "read_square", fail)
        beside = opened(root, skip_damaged=True).path
    before = beside.read_bytes()
    monkeypatch.setattr(os, "access", lambda path, mode: path != root and access(path, mode))
    assert opened(root, skip_damaged=True, check=check).path == beside
    pets = opened(root, check=check)
    assert greys(pets) == [10, 11, 12, 13, 14, 15]
    assert pets.path.parent == tmp_path / "cache/images"
    assert beside.read_bytes() == before
    assert opened(root, check=check).path == pets.path
    assert sorted(os.listdir(root)) == [".npnet-4.pack", "test", "train"]


def test_a_disk_that_is_too_small_for_some_megabytes(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 8, 2_000_000))
    with pytest.raises(NpnetError, match=r"images take 6\.3 MB, .* has 2\.0 MB free"):
        packing.open_folder(root, 512)


def test_a_disk_that_is_too_small(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(9, 8, 1))
    assert "free some, give a smaller `stored_size`" in refusal(root)
    assert sorted(os.listdir(root)) == ["test", "train"]


def test_a_disk_that_becomes_full(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    assert "No space left on device; pack the images elsewhere" in refusal(root)
    assert sorted(os.listdir(root)) == ["test", "train"]


def test_another_file_is_not_written_over(root: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.pack").write_text("my own")
    line = refusal(root, out=tmp_path / "mine.pack")
    assert line == f"{tmp_path}/mine.pack is another kind of file: choose another `out`"
    assert (tmp_path / "mine.pack").read_text() == "my own"


def test_without_pillow(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    assert "pip install 'npnet[images]'" in refusal(root)
    assert sorted(os.listdir(root)) == ["test", "train"]


@pytest.mark.parametrize("size", [0, -1, 5000])
def test_sizes_that_are_none(root: Path, size: int) -> None:
    with pytest.raises(NpnetError, match=r"`stored_size` .* is not usable"):
        packing.open_folder(root, size)


# Packed files that are damaged, or that somebody made up


def test_a_damaged_image_is_found_when_it_is_read(root: Path) -> None:
    pets = opened(root)
    with pets.path.open("r+b") as file:
        file.seek(packed.OpenFile(pets.path).places.slot(2) + 5)
        file.write(b"\xee")
    with pytest.raises(NpnetError, match=r"\.npnet-4\.pack is damaged in its image 2"):
        pets.read("train", np.array([2]))
    assert greys(opened(root), "test") == [16, 17]
    heard = Heard()
    assert greys(opened(root, check=True, packing=heard)) == [10, 11, 12, 13, 14, 15]
    assert f"{pets.path} is damaged: it is mended" in heard.lines


def sealed_again(data: bytes, change) -> bytes:
    """A packed file whose front was changed, with sums that fit."""
    length = struct.unpack_from("<Q", data, 16)[0]
    front = change(data[56 : 56 + length])
    head = data[:16] + struct.pack("<Q", len(front)) + hashlib.sha256(front).digest()
    places = packed.Places.of(len(front), 8, SIZE)
    results = data[56 + length : 56 + length + 40]
    body = head + front + results
    body += bytes(places.images - len(body)) + data[-32 - 8 * 3 * SIZE * SIZE : -32]
    return body + hashlib.sha256(head + results).digest()


def with_classes(front: bytes, classes: list[str]) -> bytes:
    (length,) = struct.unpack_from("<Q", front)
    about = json.loads(front[8 : 8 + length]) | {"classes": classes}
    text = json.dumps(about).encode()
    return struct.pack("<Q", len(text)) + text + front[8 + length :]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda front: front, None),
        (lambda front: front[:-4] + b"\7\0\0\0", "a label is of no class"),
        (lambda front: front[:-4] + b"\xff\xff\xff\xff", "a label is of no class"),
        (lambda front: front.replace(b'"size": 4', b'"size": 0'), "0 pixels across"),
        (lambda front: front.replace(b'"size": 4', b'"size": 9'), "bytes instead of"),
        (lambda front: front.replace(b"[6, 0, 2]", b"[7, 0, 2]"), "do not fit"),
        (lambda front: front.replace(b"[6, 0, 2]", b"[9,-1, 0]"), "a number of its front is none"),
        (lambda front: front.replace(b'"dog"', b'"cat"'), "fewer than two"),
        (lambda front: front.replace(b'"dog"', b"12345"), "classes are no names"),
        (lambda front: with_classes(front, ["cat", "\ud800"]), r"class '\\ud800' is no text"),
        (lambda front: with_classes(front, ["cat", "dog", "cow"]), "of class 2, of 3"),
        (lambda front: front.replace(b"[6, 0, 2]", b"[3, 0, 5]"), "of class 1, of 2"),
        (lambda front: with_classes(front, [*map(str, range(2**16 + 1))]), "65,537 classes"),
        (lambda front: front.replace(b'"size"', b'"sice"'), "other fields"),
        (lambda front: front.replace(b"0.png\0", b"0.png0"), "not a name for each"),
        (lambda front: front[:6], "lengths|JSON"),
        (lambda front: b"\xff" * 8 + front[8:], "JSON"),
    ],
)
def test_a_front_that_somebody_made_up(tmp_path: Path, root: Path, change, words) -> None:
    data = sealed_again(opened(root).path.read_bytes(), change)
    (tmp_path / "made.pack").write_bytes(data)
    if words is None:
        assert greys(PackedImages(tmp_path / "made.pack")) == [10, 11, 12, 13, 14, 15]
        return
    with pytest.raises(NpnetError, match=words) as caught:
        PackedImages(tmp_path / "made.pack")
    assert "is no file of packed images, or is damaged" in str(caught.value)


def test_a_front_that_claims_more_than_any(tmp_path: Path) -> None:
    """None of it is read: the file is a hole."""
    with (tmp_path / "made.pack").open("wb") as file:
        file.write(packed.MAGIC + struct.pack("<Q", 60 * 2**30) + bytes(32))
        file.truncate(61 * 2**30)
    with pytest.raises(
        NpnetError, match=r"made\.pack is no .*its front takes 64,424,509,440 bytes"
    ):
        PackedImages(tmp_path / "made.pack")


def test_json_that_is_too_long(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = opened(root).path
    monkeypatch.setattr(packed, "LARGEST_OBJECT", 50)
    with pytest.raises(NpnetError, match="JSON of its front is too long"):
        PackedImages(path)


def test_a_folder_with_more_files_than_are_read_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "LARGEST_FRONT", 200)
    assert "cannot be packed: its front takes" in refusal(root)
    assert sorted(os.listdir(root)) == ["test", "train"]


def test_every_cut_and_some_bits(tmp_path: Path, root: Path) -> None:
    data = opened(root).path.read_bytes()
    path, places = tmp_path / "cut.pack", packed.OpenFile(root / ".npnet-4.pack").places
    damaged = [data[:length] for length in (0, 15, 16, 55, 200, len(data) - 1)] + [data + b"\0"]
    for place in (3, 20, 30, 70, places.states, places.crcs + 1, places.seal):
        damaged.append(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
    for each in damaged:
        path.write_bytes(each)
        with pytest.raises(NpnetError, match="is no file of packed images"):
            PackedImages(path)


def test_a_pipe_is_no_packed_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.pack")
    with pytest.raises(NpnetError, match=r"a\.pack"):
        PackedImages(tmp_path / "a.pack")
