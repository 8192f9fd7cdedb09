"""The one door for images: a folder of any layout, a folder of `fcdm.sample`, an .npz or a .npy."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from fcdm.errors import UserError
from fcdm.images.arrays import open_array
from fcdm.images.image_stream import Images, Unsaid
from fcdm.images.listing import ARRAYS, TABLES, is_image, list_images, samples_within
from fcdm.images.picture_files import PictureFiles
from fcdm.images.splits import split_folders, split_within


def open_images(
    path: Path, value_range: str | None = None, layout: str | None = None, workers: int = 4, real: bool = False
) -> Images:
    """The images at `path`, of which no more than names and headers are read here.

    value_range (`0..1`, `-1..1`, `0..255`): what floats in an array mean; layout (`NHWC`, `NCHW`): of an array whose
    shape does not tell. real: they are to be compared with, so folders that name several splits are refused. Raises
    UserError for what holds no images, and for a word that means nothing there.
    """
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder")
    found = samples_within(path)
    if found.is_file():
        if is_image(found.name):
            raise UserError(f"{found} is one image: name the folder that it lies in ({found.parent})")
        if found.suffix in TABLES:
            raise HoldsTables(f"{path} is a table")
        return open_array(found, value_range, layout)
    for word, said in (("range", value_range), ("layout", layout)):
        if said is not None:
            raise UserError(f"{path} is a folder, whose files say that themselves: leave {word}={said} away")
    return _folder(found, workers, real)


class HoldsTables(Unsaid):
    """There are no images of its own, but tables that may hold some."""

    def __init__(self, what: str) -> None:
        super().__init__(what, "save its images as files, .npz or .npy")


def _folder(path: Path, workers: int, real: bool) -> PictureFiles:
    listing = list_images(path)
    if not listing.names:
        if listing.tables:
            raise HoldsTables(f"{path} holds tables ({listing.tables[0]}) and no image files")
        arrays = sorted(file.name for file in path.iterdir() if file.suffix in ARRAYS)
        raise UserError(f"{path}: no images in this folder" + (f": name a file: {path / arrays[0]}" if arrays else ""))
    splits = split_folders(listing.names) if real else []
    if len({split_within(PurePosixPath(folder).name) for folder in splits}) > 1:
        raise UserError(
            f"{path} holds folders named like splits ({', '.join(sorted(splits)[:6])}), which would be mixed: name one "
            f"of them, such as {path / splits[0]}"
        )
    others = f"{path}: {listing.others:,} other files were left out (no image's ending)"
    return PictureFiles(path, listing.names, workers=workers, notes=(others,) if listing.others else ())
