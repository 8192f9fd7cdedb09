"""manifest.json of a store: what it holds, whether that is what is asked for, and its identity. Torch-free."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcdm.atomic import read_json_if_whole
from fcdm.codecs.vae_files import ALIASES, vae_identity
from fcdm.errors import UserError
from fcdm.features.enough_images import Parts
from fcdm.paths import place

FORMAT = 1
MANIFEST, MADE, LABELS, HELDOUT, NAMES = "manifest.json", "made.json", "labels.npy", "heldout.npy", "names.txt"
ASIDE = "aside.npy"

LATENTS, PIXELS = "latents", "pixels"
"""Kinds of stores. A manifest that says none is of latents."""

PAPERS = "imagenet"
"""The name of the papers' data."""


@dataclass(frozen=True)
class Shard:
    file: str
    images: int
    sha256: str


@dataclass(frozen=True)
class Stored:
    """How a store of latents keeps an image. Of `fcdm.prepare` itself: all of it, unscaled; imports say theirs."""

    flips: int = 2
    """2: of the image and of its mirror image; 1: of the image alone."""
    deviation: bool = True
    """Whether the standard deviation stands beside the mean; else there is one latent, drawn by others."""
    dtype: str = "float16"
    scale: float = 1.0
    shift: float = 0.0
    """(latent - shift) * scale is what is kept."""

    @property
    def parts(self) -> int:
        """1: a latent; 2: mean and standard deviation."""
        return 2 if self.deviation else 1


@dataclass(frozen=True)
class Manifest:
    """What a store holds, from its manifest.json."""

    kind: str
    """`latents` or `pixels`."""
    images: int
    resolution: int
    """Side of the images in pixels."""
    channels: int
    side: int
    """Of the latents, in latent pixels; of pixels the resolution."""
    scaling_factor: float
    shift_factor: float
    stored: Stored
    vae_sha256: str
    """Of the weights of the VAE that encoded them; empty for pixels, and where an import names a hub id."""
    vae_id: str
    """Of an import the hub id that its user named; else empty."""
    heldout: int
    """Images that are held out."""
    aside: int
    """Images that are set aside for networks that evaluate."""
    classes: tuple[str, ...]
    class_counts: tuple[int, ...]
    shards: tuple[Shard, ...]
    files: dict[str, str]
    """sha256 of the other files."""
    vae: str
    """The VAE's name, for people: its hub id, or its folder's name; empty where made.json is gone."""
    vae_asked: str
    """What it was asked for as: a hub id, or where its folder was; empty where made.json is gone."""
    name: str
    """Of the data, for the names of runs, and fit for a folder's: what made.json says, else the folder's, and of the
    papers' data `imagenet`, as which figures know them; of no others."""

    @property
    def parts(self) -> Parts:
        """How many images each has."""
        return Parts(self.images - self.heldout - self.aside, self.heldout, self.aside)

    @property
    def downsample(self) -> int:
        return self.resolution // self.side

    @property
    def dtype(self) -> str:
        """Of the numbers in the shards."""
        return "uint8" if self.kind == PIXELS else self.stored.dtype

    @property
    def is_imagenet(self) -> bool:
        """Whether these are the papers' data, wherever they lie."""
        return _is_imagenet(len(self.classes), self.images)


def manifest_checksum(folder: Path) -> str:
    """The identity of the data in the store: sha256 of its manifest.json. UserError where there is no store."""
    return hashlib.sha256(_manifest_bytes(folder)).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Reads and checks manifest.json. Raises UserError, in one line, for no store, or one of another format."""
    path = folder / MANIFEST
    try:
        values = json.loads(_manifest_bytes(folder))
        if values.get("format") != FORMAT:
            raise UserError(f"{path} has format {values.get('format')}, this fcdm reads {FORMAT}: make the store anew")
        kind = str(values.get("kind", LATENTS))
        if kind not in (LATENTS, PIXELS):
            raise UserError(f"{path} is of a store of {kind}, which this fcdm does not know")
        pixels = kind == PIXELS
        found = Manifest(
            kind=kind,
            images=int(values["images"]),
            resolution=int(values["resolution"]),
            channels=int(values["channels"]),
            side=int(values["side"]),
            scaling_factor=1.0 if pixels else float(values["scaling_factor"]),
            shift_factor=0.0 if pixels else float(values["shift_factor"]),
            files=dict(values["files"]),
            stored=Stored(**values.get("stored", {})),
            vae_sha256="" if pixels else values["vae"]["weights_sha256"],
            vae_id="" if pixels else values["vae"].get("id", ""),
            heldout=int(values["heldout"]["images"]) if "heldout" in values else 0,
            aside=int(values["aside"]["images"]) if "aside" in values else 0,
            classes=tuple(values["classes"]),
            class_counts=tuple(values["class_counts"]),
            shards=tuple(Shard(**shard) for shard in values["shards"]),
            **_described(folder, values),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}): make the store anew") from None
    if sum(shard.images for shard in found.shards) != found.images:
        raise UserError(f"{path} is damaged: its shards' images do not sum to {found.images}: make the store anew")
    return found


def check_manifest(
    folder: Path,
    manifest: Manifest,
    *,
    kind: str | None = None,
    resolution: int | None = None,
    channels: int | None = None,
    downsample: int | None = None,
    classes: int | None = None,
    vae: str | None = None,
    latents: str | None = None,
    flip: str | None = None,
) -> None:
    """Raises UserError, with both values, where the store is of another kind than asked. None: not asked.

    vae: a name (hub id, `ft-ema`, folder) or the sha256 of the weights. latents, flip: `data.latents`, `data.flip`.
    """
    if kind is not None and kind != manifest.kind:
        raise UserError(f"{folder} is a store of {manifest.kind}, and one of {kind} is asked for: say another folder")
    if vae is not None and manifest.kind == PIXELS:
        raise UserError(f"{folder} is a store of pixels, which no VAE has encoded: leave data.vae={vae} away")
    has = {
        "resolution": (resolution, manifest.resolution),
        "data.channels": (channels, manifest.channels),
        "data.downsample": (downsample, manifest.downsample),
        "data.classes": (classes, len(manifest.classes)),
    }
    for key, (asked, found) in has.items():
        if asked is not None and asked != found:
            raise UserError(
                f"the {manifest.kind} store {folder} has {key}={found}, {key}={asked} is asked for: say "
                f"data.path=<another store>, or make one with `python -m fcdm.prepare {_command(manifest.kind)}`"
            )
    if manifest.kind == LATENTS:
        _check_draws(folder, manifest.stored, latents, flip)
    if vae is not None and (why := _differs(vae, manifest)):
        weights = f" (weights {manifest.vae_sha256[:8]})" if manifest.vae_sha256 or not manifest.vae_id else ""
        raise UserError(
            f"the latents store {folder} was made with {manifest.vae or 'a VAE'}{weights}, {why}, "
            "data.path=<another store>, or make one with `python -m fcdm.prepare latents`"
        )


def _check_draws(folder: Path, stored: Stored, latents: str | None, flip: str | None) -> None:
    """Raises UserError for a draw or a flip of which the store holds nothing."""
    if flip not in (None, "none") and stored.flips == 1:
        raise UserError(
            f"data.flip={flip}: the latents store {folder} was imported without mirror images, and a mirrored latent "
            "is not the mirror image's: say data.flip=none, or leave it away"
        )
    if latents == "posterior" and not stored.deviation:
        raise UserError(
            f"data.latents=posterior: the latents store {folder} was imported with one draw for each image, and no "
            "deviation to draw others by: say data.latents=frozen, or leave it away"
        )


def _command(kind: str) -> str:
    """What of `python -m fcdm.prepare` makes a store of the kind."""
    return "images" if kind == PIXELS else "latents"


def store_name(folder: Path, resolution: int | None = None) -> str:
    """What runs on a store in this folder are called after: `flowers` for data/flowers-64 of 64 pixels.

    resolution None: not known, for the store is not here; then it is what looks like one.
    """
    name = place(str(folder)).absolute().name
    if not name.strip("."):  # `.` and `..`
        name = folder.resolve().name
    pixels = r"\d{2,4}" if resolution is None else resolution
    return _folder_name(re.sub(rf"(?<=.)[-_]{pixels}(px)?$", "", name))


def store_vae(manifest: Manifest) -> str | None:
    """The VAE of the store, as `data.vae` takes it; None where it is not at its place any more."""
    asked = manifest.vae_asked
    if "/" in manifest.vae:  # a hub id, which is the same everywhere
        return asked or manifest.vae
    try:
        found = vae_identity(asked, download=False).weights_sha256 if asked else ""
    except UserError:
        return None
    return asked if found and found == manifest.vae_sha256 else None


def prepare_command(images: Path) -> str:
    """`make a store of them by ...`: the commands that make one of these images, and what to say of it then."""
    source, out = shlex.quote(str(images)), shlex.quote(f"{str(images).rstrip('/')}-32")
    command = f"python -m fcdm.prepare images images={source} resolution=32 out={out}"
    return (
        f"make a store of their pixels by `{command}`, then say data.path={out} (python -m fcdm.prepare latents makes "
        "one of a VAE's latents)"
    )


def _manifest_bytes(folder: Path) -> bytes:
    try:
        return (folder / MANIFEST).read_bytes()
    except OSError as error:
        if (folder / "work").is_dir():
            unfinished = "it is unfinished: run the command that makes it again"
            raise UserError(f"no store at {folder}: {MANIFEST}: {error.strerror} ({unfinished})") from None
        if folder.name == MANIFEST and folder.is_file():
            raise UserError(f"data.path={folder} is a store's {MANIFEST}: say data.path={folder.parent}") from None
        if folder.exists():
            raise UserError(
                f"data.path={folder} is no store (it has no {MANIFEST}), and models train on stores: if these "
                f"are images, {prepare_command(folder)}"
            ) from None
        raise UserError(
            f"no store at {folder}: {MANIFEST}: {error.strerror}; where it has moved, say data.path=<its place>"
        ) from None


def _is_imagenet(classes: int, images: int) -> bool:
    """ILSVRC's training set has 1,281,167 images; a few may be left out."""
    return classes == 1000 and images > 1_200_000


def _described(folder: Path, values: dict[str, Any]) -> dict[str, str]:
    """What made.json says for people, and the folder's name: none of it is part of the data's identity."""
    made = read_json_if_whole(folder / MADE)
    vae = made.get("vae")
    vae = vae if isinstance(vae, dict) else {}
    name = made.get("name")
    papers = _is_imagenet(len(values["classes"]), int(values["images"]))
    usual = PAPERS if papers else store_name(folder, int(values["resolution"]))
    called = _folder_name(name) if isinstance(name, str) else usual
    return {
        "vae": str(vae.get("name", "") or _vae_id(values)),
        "vae_asked": str(vae.get("asked", "") or _vae_id(values)),
        "name": f"{PAPERS}-store" if called == PAPERS and not papers else called,
    }


def _vae_id(values: dict[str, Any]) -> str:
    return str(values["vae"].get("id", "")) if "vae" in values else ""


def _folder_name(text: str) -> str:
    """The text as a part of a folder's name. `digits` is the bundled data's."""
    name = re.sub(r"[^\w.]+", "-", text).strip("-.") or "store"
    return "digits-store" if name == "digits" else name


def _differs(asked: str, manifest: Manifest) -> str | None:
    """Why the VAE that is asked for is not known to be the store's; None: it is.

    Weights are compared wherever both are known: two folders may have one name. A VAE that is not on this machine has
    nothing but its name, which only hub ids share.
    """
    if asked == manifest.vae_sha256:
        return None
    if re.fullmatch("[0-9a-f]{64}", asked):
        return f"a VAE with the weights {asked[:8]} is asked for: say its VAE"
    name = ALIASES.get(asked, asked)
    if manifest.vae_id and name == manifest.vae_id:
        return None
    try:
        found = vae_identity(asked, download=False).weights_sha256
    except UserError:
        if "/" in name and name == manifest.vae:
            return None
        return f"vae={asked} is asked for, which is not on this machine: say the folder of its VAE"
    if found == _weights(manifest):
        return None
    return f"vae={asked} (weights {found[:8]}) is asked for: say its VAE"


def _weights(manifest: Manifest) -> str:
    """sha256 of the VAE's weights; of an import, which has the VAE's name, of those on this machine, if any are."""
    if manifest.vae_sha256 or not manifest.vae_id:
        return manifest.vae_sha256
    with contextlib.suppress(UserError):
        return vae_identity(manifest.vae_id, download=False).weights_sha256
    return ""
