"""Makes a latents store: list the images, encode them shard by shard, write the manifest.

Any number of processes share the work without talking: process r of W takes shards r, r + W, ..., and the main one
waits until all stand. A start after kill -9 keeps the shards that stand and makes the others again, to the same bytes.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from fcdm.atomic import read_json
from fcdm.codecs.vae_files import vae_identity
from fcdm.data.encoding import Group, ImageProgress, ShardEncoder, StoreRequest
from fcdm.data.image_sources import open_source
from fcdm.data.manifest import MANIFEST, check_manifest, read_manifest
from fcdm.data.shards import StorePlan, Work
from fcdm.errors import UserError
from fcdm.formatting import bytes_text, plural
from fcdm.runs.run_lock import Holder, claim


def prepare_latents(request: StoreRequest, group: Group, shown: ImageProgress) -> Path:
    """Makes the store at `request.out`, or finishes it; returns its folder. Raises UserError, in one line."""
    from fcdm.codecs.vae import open_vae

    _check(request)
    work = Work(request.out)
    with contextlib.ExitStack() as stack:
        failure: UserError | None = None
        plan: StorePlan | None = None
        holder: Holder | None = None
        whole = False
        try:
            plan = plan_of(request)
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
            _tell(shown, group, f"{request.out} is whole already: {read_manifest(request.out).images:,} images")
            if group.rank == 0:
                shutil.rmtree(work.folder, ignore_errors=True)
            group.close()
            return request.out
        for note in (*plan.source.notes, *_sizes(request, plan, group)):
            _tell(shown, group, note)
        mine = range(group.rank, plan.shards, group.world_size)
        try:
            refuse = request.unreadable == "refuse"
            missing = [shard for shard in mine if not work.checked(shard, refuse, request.huge)]
            vae = open_vae(request.vae, group.device, request.batch, request.tf32)
        except UserError as error:
            failure = error
        # Nobody looks at another's shards before all have checked theirs. From here on nobody talks to the others.
        _together(group, failure)
        group.close()
        if group.rank == 0 and (kept := len(work.ended())):
            shown.note(f"{kept:,} of {plan.shards:,} shards stand and are kept")
        encoder = ShardEncoder(request, plan, work, group, shown, holder)
        try:
            encoder.encode(vae, missing)
        except UserError as error:
            work.fail(group.rank, str(error))
            raise
        if group.rank == 0:
            encoder.wait()
            encoder.finish()
    return request.out


def _check(request: StoreRequest) -> None:
    for name, value in (("batch", request.batch), ("shard", request.shard_images), ("resolution", request.resolution)):
        if value < 1:
            raise UserError(f"{name}={value} cannot be: it must be at least 1")
    if request.workers is not None and request.workers < 1:
        raise UserError(f"workers={request.workers} cannot be: it must be at least 1")
    if not 0 <= request.heldout < 1:
        raise UserError(f"heldout={request.heldout} cannot be: a fraction of the images, 0 or more and below 1")


def plan_of(request: StoreRequest) -> StorePlan:
    """What the request comes to: the images are listed, the VAE's files found. Raises UserError."""
    vae = vae_identity(request.vae)
    if request.resolution % vae.downsample:
        raise UserError(
            f"resolution={request.resolution} is not a multiple of {vae.downsample}, the side in pixels of one latent "
            f"of {vae.name}"
        )
    precision = "tf32" if request.tf32 else "fp32"
    of_tables = request.image_key, request.label_key, request.split
    source = open_source(request.images, request.labels, *of_tables, request.value_range, request.layout)
    return StorePlan(request.resolution, request.shard_images, request.heldout, precision, vae, source)


def _whole(request: StoreRequest, plan: StorePlan) -> bool:
    """Whether the store stands already. Raises UserError where another one does."""
    out = request.out
    if not (out / MANIFEST).exists():
        return False
    manifest = read_manifest(out)
    check_manifest(out, manifest, resolution=plan.resolution, vae=plan.vae.weights_sha256)
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
    for what, found, asked in (
        ("heldout", stands["heldout"]["fraction"], plan.heldout),
        ("precision", stands["vae"]["precision"], plan.precision),
    ):
        if found != asked:
            raise UserError(
                f"{out} is a whole store with {what} {found}, not {asked}: remove it, or choose another --out"
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


def _sizes(request: StoreRequest, plan: StorePlan, group: Group) -> list[str]:
    count = len(plan.source)
    images, classes = plural(count, "image"), plural(len(plan.source.classes), "class", "classes")
    shape = " x ".join(str(n) for n in plan.row_shape[2:])
    processes = f"{group.world_size} processes on {group.device.type}" if group.world_size > 1 else str(group.device)
    return [
        f"{images} of {classes} in {request.images}, at {plan.resolution} pixels",
        f"VAE {plan.vae.id}: latents {shape}, scaling factor {plan.vae.scaling_factor}",
        f"{request.out}: {bytes_text(count * plan.image_bytes)} in {plural(plan.shards, 'shard')} (mean and standard "
        "deviation in float16, of each image and its mirror image: "
        f"{bytes_text(plan.image_bytes)} an image); {processes}",
    ]


def _check_space(request: StoreRequest, plan: StorePlan, work: Work) -> None:
    stands = len(work.ended()) * plan.shard_images
    needed = max(0, len(plan.source) - stands) * (plan.image_bytes + 64)
    folder = next(path for path in (request.out.absolute(), *request.out.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder if folder.is_dir() else folder.parent).free
    if needed > free and not request.anyway:
        raise UserError(
            f"{request.out} needs {bytes_text(needed)} and the disk has {bytes_text(free)} free: free some space, "
            "choose another --out, or say --yes to start all the same"
        )


def _tell(shown: ImageProgress, group: Group, text: str) -> None:
    if group.rank == 0:
        shown.note(text)
