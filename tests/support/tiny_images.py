"""What the tests of latents are made on: folders of odd images and a tiny VAE saved by diffusers."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CLASSES = ("n01-fish", "n02-bird", "n03-dog")


def picture(number: int, width: int = 40, height: int = 36) -> NDArray[np.uint8]:
    """A smooth coloured picture (height, width, 3), another for each number, with no symmetry."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x * rng.uniform(0.05, 0.3) + y * rng.uniform(0.05, 0.3) + rng.uniform(0, 6.3)) for _ in range(3)]
    return np.clip(128 + 100 * np.stack(waves, axis=-1) + x[..., None] / 2, 0, 255).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **how: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def odd_images() -> dict[str, bytes]:
    """One readable image of each odd kind, by file name."""
    rgb = Image.fromarray(picture(100))
    grey16 = (picture(101)[..., 0].astype(np.uint16) << 8) + 77
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    palette = rgb.quantize(64)
    frames = [Image.fromarray(picture(n)).quantize(64) for n in (100, 102, 103)]
    with_alpha = rgb.copy()
    with_alpha.putalpha(Image.fromarray(picture(104)[..., 0]))
    return {
        "alpha.png": encoded(with_alpha, "PNG"),
        "animated.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "bilevel.png": encoded(rgb.convert("1"), "PNG"),
        "cmyk.jpg": encoded(rgb.convert("CMYK"), "JPEG", quality=95),
        "exif.jpg": encoded(rgb, "JPEG", quality=95, exif=exif),
        "grey.jpg": encoded(rgb.convert("L"), "JPEG", quality=95),
        "grey16.png": encoded(Image.fromarray(grey16), "PNG"),
        "grey_alpha.png": encoded(with_alpha.convert("LA"), "PNG"),
        "palette.png": encoded(palette, "PNG"),
        "palette_alpha.png": encoded(palette, "PNG", transparency=bytes([0, 128] + [255] * 62)),
        "tiny.png": encoded(Image.fromarray(picture(105, 3, 2)), "PNG"),
        "wide.webp": encoded(Image.fromarray(picture(106, 150, 33)), "WEBP", lossless=True),
        "large.jpeg": encoded(Image.fromarray(picture(107, 211, 160)), "JPEG", quality=95),
    }


def bad_images() -> dict[str, bytes]:
    """One unreadable image of each kind, by file name."""
    jpeg = encoded(Image.fromarray(picture(110, 200, 200)), "JPEG", quality=95)
    png = bytearray(encoded(Image.fromarray(picture(111)), "PNG"))
    png[60:64] = b"\0\0\0\0"
    return {
        "bomb.png": huge_png(60_000, 60_000),
        "corrupt.png": bytes(png),
        "empty.jpg": b"",
        "text.jpg": b"<html>404 not found</html>",
        "truncated.jpg": jpeg[: len(jpeg) // 2],
    }


def huge_png(width: int, height: int) -> bytes:
    """A PNG of that size, of which only the beginning is there."""

    def chunk(body: bytes) -> bytes:
        return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT" + zlib.compress(bytes(1000)))


def make_folder(root: Path, images: int = 40, bad: Iterable[str] = (), odd: bool = True) -> Path:
    """`images` readable images in three class folders, some of them odd, and the `bad` ones of `bad_images`."""
    files = list(odd_images().items()) if odd else []
    files += [(f"plain{n:03d}.png", encoded(Image.fromarray(picture(n)), "PNG")) for n in range(images - len(files))]
    broken = bad_images()
    files += [(name, broken[name]) for name in bad]
    for number, (name, data) in enumerate(files):
        folder = root / CLASSES[number % len(CLASSES)]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return root


def save_vae(folder: Path, seed: int = 0, scaling_factor: float = 0.18215, channels: int = 4) -> Path:
    """A VAE of 25 thousand random weights that takes sides down by 8, as Stable Diffusion's does."""
    import torch
    from diffusers import AutoencoderKL

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=1,
            latent_channels=channels,
            norm_num_groups=4,
            scaling_factor=scaling_factor,
        )
    model.save_pretrained(folder)
    return folder
