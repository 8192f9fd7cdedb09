"""The one door for images: folders of any layout, folders of fcdm.sample, .npz and .npy, and what is said of each."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fcdm.errors import UserError
from fcdm.images.crop import centre_crop
from fcdm.images.image_stream import Images
from fcdm.images.listing import content_sha256, list_images
from fcdm.images.look import notes_on
from fcdm.images.open_images import HoldsTables, open_images
from tests.support.nobody import as_nobody
from tests.support.tiny_images import encoded, picture

SIDE = 8
PIXELS = np.stack([picture(number, SIDE, SIDE) for number in range(25)])


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where contents are remembered."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(folder))
    return folder


def write_pictures(folder: Path, names: list[str], pixels: np.ndarray[Any, Any] = PIXELS) -> Path:
    for name, image in zip(names, pixels, strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(Image.fromarray(image), "PNG"))
    return folder


def read_all(images: Images, batch: int = 10) -> np.ndarray[Any, Any]:
    return torch.cat(list(images.batches(batch))).permute(0, 2, 3, 1).numpy()


def refusal(path: Path, **said: str) -> str:
    with pytest.raises(UserError) as error, open_images(path, **said) as images:
        list(images.batches(10))
    assert "\n" not in str(error.value)
    return str(error.value)


# --- arrays -------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("key", ["arr_0", "arr", "anything"])
def test_an_npz_is_streamed_whatever_its_array_is_called(tmp_path: Path, save: Callable[..., None], key: str) -> None:
    more = {} if key == "anything" else {"labels": np.zeros(25)}
    save(tmp_path / "s.npz", **{key: PIXELS, **more})
    images = open_images(tmp_path / "s.npz")
    assert (images.count, images.height, images.width, images.channels) == (25, SIDE, SIDE, 3)
    assert [len(batch) for batch in images.batches(10)] == [10, 10, 5]
    assert np.array_equal(read_all(images), PIXELS)
    assert images.told == "25 images of 8x8x3 (uint8, NHWC)"
    with images:  # a rank's share, and back to the beginning
        for first, last in ((3, 7), (20, 25), (0, 2)):
            assert np.array_equal(images.pixels(first, last), PIXELS[first:last])


def floats(low: float, high: float, dtype: str) -> np.ndarray[Any, Any]:
    return (PIXELS / 255.0 * (high - low) + low).astype(dtype)


@pytest.mark.parametrize(
    ("array", "said", "how"),
    [
        (PIXELS, {}, "uint8, NHWC"),
        (PIXELS.transpose(0, 3, 1, 2), {}, "uint8, NCHW"),
        (floats(0, 1, "f4"), {"value_range": "0..1"}, "float32 0..1, NHWC"),
        (floats(-1, 1, "f8").transpose(0, 3, 1, 2), {"value_range": "-1..1"}, "float64 -1..1, NCHW"),
        (floats(0, 255, ">f4"), {"value_range": "0..255"}, ">f4 0..255, NHWC"),
    ],
)
def test_bytes_and_floats_of_both_layouts_are_the_same_images(
    tmp_path: Path, array: np.ndarray[Any, Any], said: dict[str, str], how: str
) -> None:
    np.save(tmp_path / "s.npy", np.ascontiguousarray(array))
    np.savez_compressed(tmp_path / "s.npz", images=np.ascontiguousarray(array))
    for name in ("s.npy", "s.npz"):
        images = open_images(tmp_path / name, **said)
        assert images.how == how
        assert np.array_equal(read_all(images), PIXELS)


def test_half_precision_is_near_and_values_a_little_beyond_are_clipped(tmp_path: Path) -> None:
    np.save(tmp_path / "half.npy", floats(-1, 1, "f2"))
    off = read_all(open_images(tmp_path / "half.npy", "-1..1")).astype(int) - PIXELS
    assert abs(off).max() <= 1
    np.save(tmp_path / "over.npy", np.full((2, 8, 8, 3), 1.2, np.float32))
    assert read_all(open_images(tmp_path / "over.npy", "-1..1")).min() == 255


def test_grey_images_and_a_shape_that_does_not_tell(tmp_path: Path) -> None:
    np.savez(tmp_path / "grey.npz", PIXELS[..., 0])
    assert np.array_equal(read_all(open_images(tmp_path / "grey.npz")), PIXELS[..., :1])
    np.save(tmp_path / "thin.npy", PIXELS[:, :3])  # (25, 3, 8, 3)
    told = refusal(tmp_path / "thin.npy")
    assert "(n, height, width, channels) or (n, channels, height, width): say layout=NHWC or layout=NCHW" in told
    # The advice works, both ways.
    assert np.array_equal(read_all(open_images(tmp_path / "thin.npy", layout="NHWC")), PIXELS[:, :3])
    other = open_images(tmp_path / "thin.npy", layout="NCHW")
    assert (other.height, other.width, other.channels) == (8, 3, 3)


def npz(path: Path, **arrays: Any) -> None:
    np.savez(path, **arrays)


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("ran",))


@pytest.mark.parametrize(
    ("array", "said", "told"),
    [
        (floats(0, 1, "f4"), {}, "say range=0..1 or range=-1..1 (or 0..255), or save uint8"),
        (floats(-1, 1, "f4"), {"value_range": "0..1"}, "and range=0..1 is said: say the range that the values have"),
        (floats(0, 255, "f4"), {"value_range": "-1..1"}, "and range=-1..1 is said"),
        (np.full((2, 8, 8, 3), np.nan, np.float32), {"value_range": "0..1"}, "image 0 has the value nan"),
        (PIXELS, {"value_range": "0..1"}, "is uint8, which is 0..255 always: leave range=0..1 away"),
        (PIXELS, {"value_range": "0-1"}, "range=0-1 is not known: 0..1, -1..1, 0..255"),
        (PIXELS, {"layout": "NCHW"}, "which is not NCHW: leave layout=NCHW away"),
        (PIXELS, {"layout": "hwc"}, "layout=hwc is not known: NHWC or NCHW"),
        (PIXELS.astype(int), {}, "save images.astype(numpy.uint8), if its values are 0 to 255"),
        (PIXELS[0], {}, "one image? images are"),
        (np.zeros((2, 8, 8, 4), np.uint8), {}, "save the first three of its four channels"),
        (np.zeros((2, 8, 8, 7), np.uint8), {}, "images are (n, height, width, 3 or 1)"),
        (np.zeros((0, 8, 8, 3), np.uint8), {}, "there is no image in it"),
        (np.asfortranarray(PIXELS), {}, "save numpy.ascontiguousarray(images)"),
        (np.array([Code()]), {}, "holds Python objects, which could run code when read: refused"),
    ],
)
def test_arrays_that_are_no_images_are_one_line(
    tmp_path: Path, capsys: Any, array: np.ndarray[Any, Any], said: dict[str, str], told: str
) -> None:
    np.save(tmp_path / "s.npy", array)
    npz(tmp_path / "s.npz", arr_0=array)
    for name in ("s.npy", "s.npz"):
        assert told in refusal(tmp_path / name, **said)
    assert capsys.readouterr().out == ""


def test_files_that_are_no_arrays_or_cut_short_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    npz(path, labels=np.zeros(3), more=np.zeros(3))
    assert "`arr_0` or `arr`, or one sole array, was expected, and there is only labels, more" in refusal(path)
    npz(path, arr_0=PIXELS, arr_1=np.zeros(24, np.int64))
    assert "25 images in `arr_0`, but 24 labels in `arr_1`" in refusal(path)
    npz(path, arr_0=PIXELS, arr_1=np.zeros(25, np.int64))
    assert open_images(path).count == 25
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (9, 4, 4, 3)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", header.getvalue() + bytes(2 * 48))
    assert "fewer images than its header says" in refusal(path)
    (tmp_path / "s.npy").write_bytes(header.getvalue() + bytes(2 * 48))
    assert "fewer images than its header says" in refusal(tmp_path / "s.npy")
    npz(path, arr_0=np.zeros((9, 4, 4, 3), np.uint8))
    damaged = bytearray(path.read_bytes())
    damaged[-400] ^= 1
    path.write_bytes(damaged)
    assert "not a readable .npz" in refusal(path)
    path.write_text("<html>404 not found</html>")
    assert "not a readable .npz" in refusal(path)
    assert "there is no such file or folder" in refusal(tmp_path / "gone.npz")


# --- folders ------------------------------------------------------------------------------------


def test_a_folder_of_any_layout(tmp_path: Path) -> None:
    names = ["b/1.png", "b/10.png", "b/2.png", "a-b/x.png", "a/deep/er/y.PNG", "loose.png", "a/x.png"]
    folder = write_pictures(tmp_path / "mixed", names)
    (folder / "read.me").touch()
    (folder / ".hidden.png").touch()
    images = open_images(folder)
    order = ["loose.png", "a/deep/er/y.PNG", "a/x.png", "a-b/x.png", "b/1.png", "b/10.png", "b/2.png"]
    assert list_images(folder).names == order, "folder by folder"
    assert np.array_equal(read_all(images, 3), PIXELS[[names.index(name) for name in order]])
    assert "1 other files were left out" in images.notes[0]


def test_numbered_files_come_by_their_number(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "s", [f"{number}.png" for number in range(25)])
    assert np.array_equal(read_all(open_images(folder)), PIXELS)


def test_pictures_of_any_kind_become_rgb_and_two_sizes_are_refused(tmp_path: Path) -> None:
    grey = Image.fromarray(PIXELS[0]).convert("L")
    (tmp_path / "1.png").write_bytes(encoded(grey, "PNG"))
    (tmp_path / "2.webp").write_bytes(encoded(Image.fromarray(PIXELS[1]), "WEBP", lossless=True))
    found = read_all(open_images(tmp_path))
    assert np.array_equal(found[0], np.asarray(grey.convert("RGB")))
    assert np.array_equal(found[1], PIXELS[1])
    write_pictures(tmp_path, ["3.png"], np.zeros((1, 8, 9, 3), np.uint8))
    assert "images of two sizes: 1.png is 8x8 (height x width), 3.png is 8x9" in refusal(tmp_path)
    (tmp_path / "3.png").write_text("no picture")
    assert "3.png cannot be read (no image, or of an unknown format)" in refusal(tmp_path)


def test_no_word_is_advised_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcdm.images.crop.LARGEST", 10)
    told = refusal(write_pictures(tmp_path, ["1.png"]))
    assert "over Pillow's limit of 10)" in told, "samples have no --huge"


def test_folders_without_images_say_what_could_be_meant(tmp_path: Path) -> None:
    assert refusal(tmp_path).endswith("no images in this folder")
    npz(tmp_path / "s.npz", arr_0=PIXELS)
    assert refusal(tmp_path).endswith(f"name a file: {tmp_path / 's.npz'}")
    (tmp_path / "s.npz").rename(tmp_path / "train.parquet")
    with pytest.raises(HoldsTables, match=r"holds tables \(train\.parquet\).*: save its images as files"):
        open_images(tmp_path)
    write_pictures(tmp_path, ["1.png"])
    assert f"name the folder that it lies in ({tmp_path})" in refusal(tmp_path / "1.png")
    assert "leave range=0..1 away" in refusal(tmp_path, value_range="0..1")


def test_a_folder_that_cannot_be_read_is_no_empty_one(in_public: Path) -> None:
    write_pictures(in_public, ["a/1.png", "b/1.png"])
    (in_public / "b").chmod(0)

    def look() -> None:
        assert "permission denied" in refusal(in_public)

    as_nobody(look)


def test_three_grey_images_or_one_of_three_channels_is_asked(tmp_path: Path) -> None:
    pixels = np.ascontiguousarray(PIXELS[0].transpose(2, 0, 1))
    np.save(tmp_path / "a.npy", pixels)
    said = refusal(tmp_path / "a.npy")
    assert "has shape (3, 8, 8), which is one image (channels, height, width) or three grey ones" in said
    for index, told in (((None,), (1, 3)), ((..., None), (3, 1))):
        np.save(tmp_path / "a.npy", pixels[index])
        images = open_images(tmp_path / "a.npy")
        assert (images.count, images.channels) == told, "as the message says"
    np.save(tmp_path / "a.npy", PIXELS[:4, ..., 0])
    assert (open_images(tmp_path / "a.npy").count, open_images(tmp_path / "a.npy").channels) == (4, 1)


@pytest.mark.parametrize(
    ("links", "named"),
    [
        ({"s/self": "s"}, "s/self"),
        ({"s/a/up": "s"}, "s/a/up"),
        ({"s/a/out": "elsewhere", "elsewhere/b/back": "s/a"}, "s/a/out/b/back"),
    ],
)
def test_a_link_to_its_own_folder_is_named(links: dict[str, str], named: str, tmp_path: Path) -> None:
    write_pictures(tmp_path, ["s/a/1.png", "elsewhere/b/2.png"])
    for link, target in links.items():
        (tmp_path / link).symlink_to(tmp_path / target)
    assert refusal(tmp_path / "s") == (
        f"{tmp_path / named}: a link that leads back to itself, or to a folder on its way, while listing the images: "
        "remove it"
    )


def test_other_links_are_followed(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["s/a/1.png", "elsewhere/b/2.png"])
    for link, target in {"s/x": "elsewhere", "s/y": "elsewhere/b", "s/z": "s/a"}.items():
        (tmp_path / link).symlink_to(tmp_path / target)
    assert list_images(tmp_path / "s").names == ["a/1.png", "x/b/2.png", "y/2.png", "z/1.png"]


def test_a_folder_of_fcdm_sample_is_its_samples(tmp_path: Path) -> None:
    home = tmp_path / "drawn"
    write_pictures(home, [f"images/{number:06d}.png" for number in range(25)])
    write_pictures(home, ["grid.png"])
    request = {"formats": ["png"], "shape": [25, SIDE, SIDE, 3], "protocol": {}}
    (home / "request.json").write_text(json.dumps(request))
    for path in (home, home / "images"):
        assert "unfinished folder of fcdm.sample" in refusal(path)
    (home / "samples.json").write_text("{}")
    for path in (home, home / "images"):
        assert np.array_equal(read_all(open_images(path)), PIXELS), "without the grid"
    (home / "images" / "000003.png").rename(tmp_path / "lost.png")
    assert "has 24 pictures, but" in refusal(home)
    npz(home / "samples.npz", arr_0=PIXELS)
    assert open_images(home).path == home / "samples.npz"


def test_the_content_of_a_folder_is_remembered_until_it_changes(tmp_path: Path, home: Path) -> None:
    folder = write_pictures(tmp_path / "s", ["a/1.png", "a/2.png"])
    first = content_sha256(folder)
    (kept,) = (home / ".cache/fcdm/contents").iterdir()
    kept.write_text(json.dumps({"sha256": "0" * 64}))
    assert content_sha256(folder) == "0" * 64, "known, and not read again"
    write_pictures(tmp_path / "t", ["a/1.png", "a/2.png"])
    assert content_sha256(tmp_path / "t") == first, "wherever it lies"
    (folder / "a/2.png").write_bytes((folder / "a/1.png").read_bytes())
    assert content_sha256(folder) not in (first, "0" * 64)


def test_the_content_of_a_file_is_remembered_until_it_changes(tmp_path: Path, home: Path) -> None:
    np.save(tmp_path / "a.npy", PIXELS)
    assert content_sha256(tmp_path / "a.npy") == hashlib.sha256((tmp_path / "a.npy").read_bytes()).hexdigest()
    (kept,) = (home / ".cache/fcdm/contents").iterdir()
    kept.write_text(json.dumps({"sha256": "0" * 64}))
    for found in (content_sha256(tmp_path / "a.npy"), open_images(tmp_path / "a.npy").checksum()):
        assert found == "0" * 64, "known, and not read again by another process"
    np.save(tmp_path / "a.npy", PIXELS[:-1])
    assert content_sha256(tmp_path / "a.npy") != "0" * 64


# --- squares, and what a look tells --------------------------------------------------------------


def test_squares_are_adms_crop_of_files_and_arrays(tmp_path: Path) -> None:
    pixels = np.stack([picture(number, 40, 36) for number in range(4)])
    write_pictures(tmp_path / "f", [f"{number}.png" for number in range(4)], pixels)
    np.save(tmp_path / "f.npy", pixels)
    wanted = [centre_crop(Image.fromarray(image), 16) for image in pixels]
    for name in ("f", "f.npy"):
        with open_images(tmp_path / name) as images:
            assert np.array_equal(images.squares([0, 1, 3], 16), [wanted[number] for number in (0, 1, 3)])
    np.save(tmp_path / "grey.npy", PIXELS[..., 0])
    with open_images(tmp_path / "grey.npy") as images:
        assert np.array_equal(images.squares([2], SIDE)[0], np.repeat(PIXELS[2][..., :1], 3, axis=2))


@pytest.mark.parametrize(
    ("pixels", "said", "told"),
    [
        ((PIXELS // 255).astype(np.uint8) | 1, None, "0 or 1: were they floats from 0 to 1 that were cut to bytes?"),
        (np.zeros_like(PIXELS), None, "is black"),
        (np.repeat(PIXELS[:1], 70, axis=0), None, "the first 64 images are all the same"),
        (np.repeat(PIXELS[..., :1], 3, axis=3), None, "are grey, and the reference's are not"),
        (floats(0, 1, "f4"), "-1..1", "no value of all 25 images is below 0: is it range=0..1?"),
        (floats(0, 1, "f4"), "0..255", "0 or 1: were they floats"),
    ],
)
def test_a_look_tells_where_people_go_wrong(
    tmp_path: Path, pixels: np.ndarray[Any, Any], said: str | None, told: str
) -> None:
    np.save(tmp_path / "s.npy", pixels)
    with open_images(tmp_path / "s.npy", said) as images:
        assert told in " ".join(notes_on(images, grey_reference=False))


def test_a_look_at_right_images_tells_nothing_but_of_jpegs(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", PIXELS)
    with open_images(tmp_path / "s.npy") as images:
        assert notes_on(images, grey_reference=False) == []
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "1.jpg").write_bytes(encoded(Image.fromarray(PIXELS[0]), "JPEG"))
    with open_images(tmp_path / "f") as images:
        assert ["JPEGs" in note for note in notes_on(images)] == [True]
