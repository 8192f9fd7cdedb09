"""Makes a store: list the images, encode them shard by shard, write the manifest.

Any number of processes share the work without talking: process r of W takes shards r, r + W, ..., and the main one
waits until all stand. A start after kill -9 keeps the shards that stand and makes the others again, to the same bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fcdm.atomic import read_json, read_json_if_whole
from fcdm.codecs.vae_files import vae_identity
from fcdm.data.encoding import (
    Encode,
    Group,
    ImageProgress,
    ShardEncoder,
    StoreRequest,
    as_they_are,
    latents_of,
    pixels_of,
)  # fmt: skip
from fcdm.data.image_sources import ImageSource, open_source
from fcdm.data.import_latents import ImportedLatents, import_content
from fcdm.data.manifest import MADE, MANIFEST, PIXELS, check_manifest, read_manifest
from fcdm.data.own_split import open_with_test
from fcdm.data.plan_notes import notes_of_plan
from fcdm.data.shards import How, StorePlan, Work
from fcdm.data.store_contents import Content, Latents, Pixels
from fcdm.errors import UserError
from fcdm.features.enough_images import refuse_few
from fcdm.formatting import bytes_text, plural
from fcdm.images.crop import SMALLER, Unreadable, next_side, pillow_settings, read_whole, why_unpadded
from fcdm.runs.run_lock import Holder, claim

LOOKED = 64
"""So many images, all over the source, say whether it is grey, and large enough."""
HELDOUT = 0.1, 0.2, 200
"""Of a source without a test split of its own, this fraction of each class is held out; where that is less than so many
images in all, what gives them, up to the second fraction."""
ASIDE = 0.1, 0.25, 2000
"""The same of what is set aside, of the others."""


def prepare_store(request: StoreRequest, group: Group, shown: ImageProgress) -> Path:
    """Makes the store at `request.out`, or finishes it; returns its folder. Raises UserError, in one line."""
    _check(request)
    work = Work(request.out)
    with contextlib.ExitStack() as stack:
        failure: UserError | None = None
        plan: StorePlan | None = None
        holder: Holder | None = None
        whole = False
        try:
            plan = plan_of(request)
            if plan.content.kind == PIXELS:
                refuse_few(request.images, plan.parts)
            whole = _whole(request, plan)
            if group.rank == 0 and not whole:
                _check_space(request, plan, work)
                holder = stack.enter_context(claim(work.folder))
                work.start(plan)
        except UserError as error:
            failure = error
        _together(group, failure)
        assert plan is not None
        group.agree(plan.number(), "the images, the VAE and the options")
        if whole:
            _tell(shown, group, f"{request.out} is whole already: {plural(read_manifest(request.out).images, 'image')}")
            if group.rank == 0:
                shutil.rmtree(work.folder, ignore_errors=True)
            group.close()
            return request.out
        for note in notes_of_plan(request, plan, group):
            _tell(shown, group, note)
        mine = range(group.rank, plan.shards, group.world_size)
        try:
            refuse, how = request.unreadable == "refuse", How(request.huge, plan.content.allows)
            missing = [shard for shard in mine if not work.checked(shard, refuse, how, plan.stamp(shard))]
            encode = _encode(request, group)
        except UserError as error:
            failure = error
        # Nobody looks at another's shards before all have checked theirs. From here on nobody talks to the others.
        _together(group, failure)
        group.close()
        if group.rank == 0 and (kept := len(work.ended())):
            shown.note(f"of {plural(plan.shards, 'shard')} {kept:,} stand, and are kept")
        encoder = ShardEncoder(request, plan, work, group, shown, holder)
        try:
            encoder.encode(encode, missing)
        except UserError as error:
            work.fail(group.rank, str(error))
            raise
        if group.rank == 0:
            encoder.wait()
            encoder.finish()
    return request.out


def _check(request: StoreRequest) -> None:
    if request.imported is not None and request.vae is None:
        raise UserError("vae= is wanted: whose latents they are, as ft-ema, a hub id or a folder")
    for name, value in (("batch", request.batch), ("shard", request.shard_images), ("resolution", request.resolution)):
        if value < 1:
            raise UserError(f"{name}={value} cannot be: it must be at least 1")
    if request.workers is not None and request.workers < 1:
        raise UserError(f"workers={request.workers} cannot be: it must be at least 1")
    for name, fraction in (("heldout", request.heldout), ("aside", request.aside)):
        if fraction is not None and not 0 <= fraction < 1:
            raise UserError(f"{name}={fraction} cannot be: a fraction of the images, 0 or more and below 1")
    pad = request.pad
    if pad is not None and (pad < request.resolution or pad % request.resolution):
        raise UserError(
            f"pad={pad} cannot be: a multiple of resolution={request.resolution}, for its blocks are averaged to that: "
            f"say pad={next_side(pad, request.resolution)}"
        )
    if pad is not None and request.smaller == "upscale" and request.vae is None:
        raise UserError(f"pad={pad} sets images on black as they are, and smaller=upscale scales them: leave one away")


def plan_of(request: StoreRequest) -> StorePlan:
    """What the request comes to: the images are listed, the VAE's files found. Raises UserError."""
    if request.imported is not None:
        assert request.vae is not None
        imported, source, note = import_content(
            request.images, request.options.labels, request.vae, request.resolution, request.imported
        )
        source = dataclasses.replace(source, notes=(*source.notes, *([note] if note else [])))
        return StorePlan(imported, request.shard_images, request.heldout, 0.0, source)
    if request.vae is not None:
        content: Content = _latents(request, request.vae)
        return StorePlan(
            content, request.shard_images, request.heldout, 0.0, open_source(request.images, request.options)
        )
    source = (open_with_test if request.heldout is None else open_source)(request.images, request.options)
    channels = _looked_at(source, request)
    content = Pixels(request.resolution, channels, request.channels == 1, request.pad, request.smaller == "upscale")
    heldout, aside = request.heldout, request.aside
    if heldout is None and source.test is None:
        heldout = _fraction(len(source), *HELDOUT)
    if aside is None:
        held = int(source.test.sum()) if heldout is None and source.test is not None else (heldout or 0) * len(source)
        aside = _fraction(len(source) - held, *ASIDE)
    return StorePlan(content, request.shard_images, heldout, aside, source)


def _fraction(images: float, least: float, most: float, enough: int) -> float:
    """Of so many images, where nobody says one."""
    return round(min(most, max(least, enough / max(1, images))), 4)


def _latents(request: StoreRequest, name: str) -> Latents:
    vae = vae_identity(name)
    if request.resolution % vae.downsample:
        raise UserError(
            f"resolution={request.resolution} is not a multiple of {vae.downsample}, the side in pixels of one latent "
            f"of {vae.name}"
        )
    return Latents(request.resolution, vae, "tf32" if request.tf32 else "fp32")


def _looked_at(source: ImageSource, request: StoreRequest) -> int:
    """The channels of the store: as asked, else 1 where the images looked at have no colour.

    What cannot be read is told later. Raises UserError where one is smaller than the resolution, or larger than the
    black square, and none may be.
    """
    smaller_is_wrong = request.pad is None and request.smaller == "refuse"
    pad = request.pad if request.unreadable == "refuse" else None  # else those that are too large are left out
    colour = False
    with pillow_settings():
        for index in _spread(source):
            with contextlib.suppress(Unreadable):
                pixels = read_whole(source.read(index))
                height, width = pixels.shape[:2]
                if pad is not None and (wrong := why_unpadded(width, height, pad, request.resolution)):
                    raise UserError(f"{source.root / source.names[index]} has {wrong}")
                if smaller_is_wrong and min(height, width) < request.resolution:
                    raise UserError(
                        f"{source.root / source.names[index]} has {width} x {height} pixels, and "
                        f"resolution={request.resolution} is asked for: {SMALLER}, or pad={request.resolution} to set "
                        "all on black"
                    )
                colour = colour or bool((pixels != pixels[..., :1]).any())
    return request.channels or (3 if colour else 1)


def _spread(source: ImageSource) -> list[int]:
    """Numbers of images all over the source, in order."""
    return sorted({int(index) for index in np.linspace(0, len(source) - 1, min(LOOKED, len(source)))})


def _encode(request: StoreRequest, group: Group) -> Encode:
    if request.imported is not None:
        return as_they_are
    if request.vae is None:
        return pixels_of
    from fcdm.codecs.vae import open_vae

    return latents_of(open_vae(request.vae, group.device, request.batch, request.tf32))


def _whole(request: StoreRequest, plan: StorePlan) -> bool:
    """Whether the store stands already. Raises UserError where another one does."""
    out = request.out
    if not (out / MANIFEST).exists():
        return False
    manifest = read_manifest(out)
    content = plan.content
    vae = content.vae.weights_sha256 or None if isinstance(content, Latents | ImportedLatents) else None
    check_manifest(out, manifest, kind=content.kind, resolution=plan.resolution, vae=vae)
    stands = read_json(out / MANIFEST)
    if stands["source"]["checksum"] != plan.source.checksum():
        if [*manifest.classes] != plan.source.classes and stands["source"]["images"] == len(plan.source):
            raise UserError(
                f"{out} is a whole store of as many images with other classes ({_classes(manifest.classes)}; "
                f"{request.images} has {_classes(plan.source.classes)}): remove it, or say out=<another folder>"
            )
        raise UserError(
            f"{out} is a whole store of other images ({stands['source']['images']:,}; {request.images} has "
            f"{len(plan.source):,}): remove it, or say out=<another folder>"
        )
    asked = {"heldout": plan.heldout, "aside": plan.aside, **content.options()}
    for what, found in {
        "heldout": stands["heldout"]["fraction"],
        "aside": stands["aside"]["fraction"] if "aside" in stands else 0.0,
        **content.options_of(stands),
    }.items():
        if found != asked[what]:
            raise UserError(
                f"{out} is a whole store with {what} {found}, not {asked[what]}: remove it, or say out=<another folder>"
            )
    made = read_json_if_whole(out / MADE)
    if "stamp" in made and made["stamp"] != plan.source.stamp():
        raise UserError(
            f"{out} is a whole store of {request.images} as it was before its files changed (sizes or times): say "
            "out=<another folder>, or remove it"
        )
    return True


def _classes(names: Sequence[str]) -> str:
    return f"{plural(len(names), 'class', 'classes')}, first {names[0]}"


def _together(group: Group, failure: UserError | None) -> None:
    """All go on or all stop; the main process's reason is told alone."""
    main_failed = group.any(failure is not None and group.rank == 0)
    if group.any(failure is not None):
        if failure is not None and (group.rank == 0 or not main_failed):
            raise failure
        raise SystemExit(1)


def _check_space(request: StoreRequest, plan: StorePlan, work: Work) -> None:
    stands = len(work.ended()) * plan.shard_images
    needed = max(0, len(plan.source) - stands) * (plan.image_bytes + 64)
    folder = next(path for path in (request.out.absolute(), *request.out.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder if folder.is_dir() else folder.parent).free
    if needed > free and not request.anyway:
        raise UserError(
            f"{request.out} needs {bytes_text(needed)} and the disk has {bytes_text(free)} free: free some space, "
            "say out=<another folder>, or --yes to start all the same"
        )


def _tell(shown: ImageProgress, group: Group, text: str) -> None:
    if group.rank == 0:
        shown.note(text)
