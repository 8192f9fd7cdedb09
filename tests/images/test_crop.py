"""From odd image files to ADM's centre crop, against an independent implementation; and what cannot be read."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcdm.images.crop import LARGEST, Unreadable, centre_crop, pillow_settings, read_square, square_of
from tests.support.tiny_images import bad_images, encoded, huge_png, odd_images, picture


@pytest.fixture(autouse=True)
def settings():
    with pillow_settings():
        yield


def halved(pixels: np.ndarray) -> np.ndarray:
    """The mean of the pixels whose centres lie in each box, (h, w, 3) to (h // 2, w // 2, 3)."""

    def weights(size: int) -> np.ndarray:
        scale = size / (size // 2)
        offsets = (np.arange(size) + 0.5 - (np.arange(size // 2)[:, None] + 0.5) * scale) / scale
        inside = (offsets > -0.5) & (offsets <= 0.5)
        return inside / inside.sum(1, keepdims=True)

    rows, columns = weights(pixels.shape[0]), weights(pixels.shape[1])
    return rounded(np.einsum("ri,isc->rsc", rows, rounded(np.einsum("sj,ijc->isc", columns, pixels))))


def bicubic(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Keys' cubic (a = -0.5), widened by the scale when shrinking, as Pillow's BICUBIC."""

    def weights(size: int, target: int) -> np.ndarray:
        scale = size / target
        support = max(scale, 1.0)
        centres = (np.arange(target) + 0.5) * scale
        x = np.abs((np.arange(size) + 0.5 - centres[:, None]) / support)
        a = -0.5
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((x - 5) * x + 8) * x * a - 4 * a
        w = np.where(x < 1, near, np.where(x < 2, far, 0.0))
        return w / w.sum(1, keepdims=True)

    wide = rounded(np.einsum("sj,ijc->isc", weights(pixels.shape[1], width), pixels))
    return rounded(np.einsum("ri,isc->rsc", weights(pixels.shape[0], height), wide))


def rounded(pixels: np.ndarray) -> np.ndarray:
    """Pillow goes along the rows first, and comes back to 8 bits after each pass."""
    return np.floor(pixels.clip(0, 255) + 0.5).clip(0, 255)


@pytest.mark.parametrize(
    ("width", "height"), [(32, 32), (40, 36), (63, 33), (64, 64), (129, 200), (131, 97), (20, 25), (300, 33)]
)
def test_the_crop_is_box_halvings_then_bicubic_then_the_centre(width: int, height: int) -> None:
    size = 32
    pixels = picture(1, width, height)
    want = pixels.astype(float)
    while min(want.shape[:2]) >= 2 * size:
        want = halved(want)
    scale = size / min(want.shape[:2])
    want = bicubic(want, round(want.shape[0] * scale), round(want.shape[1] * scale))
    top, left = (want.shape[0] - size) // 2, (want.shape[1] - size) // 2
    want = want[top : top + size, left : left + size]

    found = centre_crop(Image.fromarray(pixels), size)

    assert found.shape == (size, size, 3)
    assert found.dtype == np.uint8
    # Pillow's weights have 22 bits.
    assert np.abs(found - want).max() <= 1
    assert (found != want).mean() < 0.01


def test_an_odd_rest_of_the_crop_goes_to_the_bottom_and_the_right() -> None:
    pixels = picture(2, 37, 32)
    assert np.array_equal(centre_crop(Image.fromarray(pixels), 32), pixels[:, 2:34])
    pixels = picture(2, 32, 35)
    assert np.array_equal(centre_crop(Image.fromarray(pixels), 32), pixels[1:33])


@pytest.mark.parametrize("name", sorted(odd_images()))
def test_every_kind_of_image_is_read(name: str, tmp_path: Path) -> None:
    data = odd_images()[name]
    (tmp_path / name).write_bytes(data)
    found = read_square(tmp_path / name, 32)
    assert found.shape == (32, 32, 3)
    assert np.array_equal(found, read_square(data, 32))
    assert found.std() > 5


def test_what_the_kinds_become() -> None:
    images = odd_images()
    plain = centre_crop(Image.fromarray(picture(100)), 32).astype(int)

    def far(name: str) -> float:
        return float(np.abs(read_square(images[name], 32).astype(int) - plain).mean())

    assert far("alpha.png") == 0, "alpha is dropped, not blended"
    assert far("exif.jpg") < 4, "EXIF orientation is ignored, as ADM does"
    assert far("cmyk.jpg") < 12
    assert far("palette.png") < 12
    assert np.array_equal(read_square(images["palette.png"], 32), read_square(images["palette_alpha.png"], 32))
    assert far("animated.gif") < 12, "the first frame"
    grey = np.asarray(Image.fromarray(picture(100)).convert("L")).astype(int)
    close = read_square(images["grey.jpg"], 32)
    assert np.array_equal(close[..., 0], close[..., 2])
    assert abs(int(close.mean()) - int(grey.mean())) < 5
    deep = read_square(images["grey16.png"], 32)
    eight = centre_crop(Image.fromarray(picture(101)[..., 0]).convert("RGB"), 32)
    assert np.array_equal(deep, eight), "16 bits are scaled to 8, not clipped to white"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("bomb.png", "60000 x 60000 pixels: over Pillow's limit"),
        ("corrupt.png", "broken"),
        ("empty.jpg", "the file is empty"),
        ("text.jpg", "no image"),
        ("truncated.jpg", "truncated"),
    ],
)
def test_what_cannot_be_read_says_why(name: str, why: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(bad_images()[name])
    with pytest.raises(Unreadable, match=why) as caught:
        read_square(tmp_path / name, 32)
    assert "\n" not in str(caught.value)
    assert str(caught.value)


def test_files_that_cannot_be_opened_and_pixels_without_a_scale(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="No such file"):
        read_square(tmp_path / "none.png", 32)
    with pytest.raises(Unreadable, match="floating-point"):
        read_square(encoded(Image.fromarray(np.ones((9, 9), np.float32)), "TIFF"), 8)
    with pytest.raises(Unreadable, match="more than 16 bits"):
        read_square(encoded(Image.fromarray(np.full((9, 9), 70_000, np.int32)), "TIFF"), 8)
    with pytest.raises(Unreadable, match=r"once its short side is scaled: over Pillow's limit"):
        read_square(encoded(Image.fromarray(picture(1, 3000, 1)), "PNG"), 256)


def test_huge_takes_what_the_limit_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcdm.images.crop.LARGEST", 1000)
    data = encoded(Image.fromarray(picture(1)), "PNG")
    with pytest.raises(Unreadable, match="--huge"):
        read_square(data, 32)
    assert np.array_equal(read_square(data, 32, huge=True), centre_crop(Image.fromarray(picture(1)), 32, huge=True))
    assert LARGEST == Image.MAX_IMAGE_PIXELS or Image.MAX_IMAGE_PIXELS is None


def test_pillows_own_limit_comes_back() -> None:
    with pillow_settings():
        assert Image.MAX_IMAGE_PIXELS is None
        with Image.open(BytesIO(huge_png(20_000, 20_000))) as image:
            assert image.size == (20_000, 20_000)


@pytest.mark.parametrize(("kind", "orientation", "told"), [
    ("JPEG", 6, True), ("JPEG", 1, False), ("JPEG", 0, False), ("JPEG", None, False), ("PNG", 3, True),
    ("WEBP", 2, True), ("TIFF", 6, False),
])  # fmt: skip
def test_an_orientation_by_which_a_picture_is_not_turned_is_told(
    kind: str, orientation: int | None, told: bool
) -> None:
    """Pillow turns TIFF files itself, for ADM's loader too."""
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    how = {} if kind == "JPEG" else {"compression": None} if kind == "TIFF" else {"lossless": True}
    image = Image.fromarray(picture(1))
    found = square_of(encoded(image, kind, exif=exif, **how), 32)
    square = found.pixels
    assert found.turned is told
    if kind == "PNG":
        assert np.array_equal(square, centre_crop(image, 32)), "as it is stored"
    if kind == "TIFF":
        assert np.array_equal(square, centre_crop(image.transpose(Image.Transpose.ROTATE_270), 32))


def test_damaged_metadata_are_no_news() -> None:
    data = encoded(Image.fromarray(picture(1)), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    found = square_of(data, 32)
    assert found.pixels.shape == (32, 32, 3)
    assert not found.turned
