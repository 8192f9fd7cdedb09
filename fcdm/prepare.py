"""`python -m fcdm.prepare images ...`, `latents ...`, `reference ...`: what a study needs before its first step.

The same command again continues. Under torchrun, or `srun` with several tasks, the processes share the work.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fcdm.config.spaces import DINOV2, OF_ANY_IMAGES
from fcdm.engine.stop import Stopped, StopSignal, end_process
from fcdm.errors import OneLineParser, UserError, as_options
from fcdm.formatting import plural
from fcdm.paths import home_expanded, place
from fcdm.runs.processes import end_with_parent

if TYPE_CHECKING:
    from fcdm.data.pixel_store import PixelStore
    from fcdm.images.image_stream import Images

IMAGES_EXAMPLES = """examples:
  python -m fcdm.prepare images images=photos resolution=64 out=data/photos-64
  python -m fcdm.prepare images images=cifar10 resolution=32 out=data/cifar10-32
  python -m fcdm.prepare images images=fashion-mnist resolution=16 pad=32 out=data/fashion-16

Then: python -m fcdm.train model=N data.path=data/cifar10-32. The same command again continues; torchrun and srun share
the work."""

EXAMPLES = """examples:
  python -m fcdm.prepare latents --images /data/imagenet/train --resolution 256
  python -m fcdm.prepare latents images=/data/imagenet/train resolution=512 vae=/models/sd-vae-ft-ema
  python -m fcdm.prepare latents images=photos labels=photos.csv out=data/photos
  python -m fcdm.prepare latents images=cifar100/train-00000-of-00001.parquet label_key=coarse_label out=data/cifar20
  python -m fcdm.prepare latents latents=features vae=ft-ema scale=0.18215 resolution=256 out=data/imagenet-256
  torchrun --standalone --nproc-per-node 8 -m fcdm.prepare latents --images /data/imagenet/train
  srun --ntasks 8 --gpus-per-task 1 --cpus-per-task 12 python -m fcdm.prepare latents --images /data/imagenet/train

The same command again continues: finished shards are kept. No network is needed once the VAE is in the hub's cache
(hf download stabilityai/sd-vae-ft-ema) or in a folder."""


def main(arguments: list[str] | None = None) -> int:
    """Runs one subcommand. Returns the exit code: 1 after a one-line message."""
    words = sys.argv[1:] if arguments is None else arguments
    options = argparse.Namespace()
    end_with_parent()
    try:
        named = [re.sub(r"^(?:--)?data\.path=", "--data-path=", word) for word in words]
        options = _parser().parse_args(as_options(named))
        run: Callable[[argparse.Namespace], None] = options.run
        run(options)
    except UserError as error:
        if refusal := getattr(options, "refusal", None):
            refusal.write_text(str(error))
        else:
            print(f"fcdm.prepare: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("fcdm.prepare: interrupted; the same command continues", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="python -m fcdm.prepare", description="Makes what a study needs before its first step.")
    commands = parser.add_subparsers(title="what to prepare", metavar="WHAT", required=True)
    _add_images(commands.add_parser)
    _add_latents(commands.add_parser)
    _add_channels(commands.add_parser)
    _add_reference(commands.add_parser)
    _add_features(commands.add_parser)
    return parser


def _add_images(add: Callable[..., argparse.ArgumentParser]) -> None:
    images = add(
        "images",
        help="images of any layout -> a store of their pixels to train on",
        description="A folder of images (in class folders, with a file of labels, or without labels), a HF datasets "
        "copy (parquet or arrow files), an .npz or .npy, or IDX files -> a store of square 8-bit images, grey or RGB, "
        "cut as ADM cuts them. A test split of the source's own is held out, else a tenth of each class (up to a fifth "
        "of few images); some images are set aside for networks that evaluate (`fcdm.prepare features`), and no "
        "generator sees them.",
        epilog=IMAGES_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    images.set_defaults(run=_store, vae=None, device="cpu", batch=256, tf32=False)
    option = images.add_argument
    _add_source(option)
    option("--resolution", type=int, required=True, help="side of the square images in pixels")
    option("--out", type=place, metavar="FOLDER", help="the store (default: data/<name>-<resolution>)")
    option("--channels", type=int, choices=(1, 3), help="1: grey, 3: RGB (default: grey where images have no colour)")
    option(
        "--pad",
        type=int,
        metavar="SIDE",
        help="set each image on a black square of that side, whose blocks are averaged",
    )
    option(
        "--smaller",
        choices=("refuse", "upscale"),
        default="refuse",
        help="what to do about images smaller than the resolution (default: refuse)",
    )
    option(
        "--heldout",
        type=float,
        help="fraction of each class never trained on (default: its own test split, else 0.1 to 0.2)",
    )
    option("--aside", type=float, help="fraction of the rest for networks that evaluate (default: 0.1 to 0.25)")
    _add_work(option)


def _add_source(option: Callable[..., argparse.Action], needed: bool = True) -> None:
    """What says which images, and their labels."""
    option(
        "--images",
        type=place,
        required=needed,
        metavar="PLACE",
        help="a folder, or a parquet, arrow, .npz, .npy or IDX file",
    )
    option(
        "--labels",
        type=home_expanded,
        metavar="FILE",
        help="json, csv or tsv: path, label; folders: by class folder; none: one class",
    )
    option("--image-key", metavar="COLUMN", help="of parquet and arrow files (default: image, img, webp, jpg, png)")
    option("--label-key", metavar="COLUMN", help="the same (default: label, labels, cls, fine_label)")
    option("--split", metavar="NAME", help="of several in parquet and arrow files (default: train)")
    option("--range", help="of floats in an .npz or .npy: 0..1, -1..1 or 0..255")
    option("--layout", help="of an .npz or .npy whose shape does not tell: NHWC or NCHW")


def _add_work(option: Callable[..., argparse.Action]) -> None:
    """How the images are read and written."""
    option("--unreadable", choices=("refuse", "skip"), default="refuse", help="what to do about damaged images")
    option("--workers", type=int, metavar="N", help="threads that read and crop (default: the cores, at most 16)")
    option("--shard", type=int, default=4096, metavar="IMAGES", help="images per shard file (default: 4096)")
    option("--huge", action="store_true", help="take images over Pillow's limit of 89 million pixels too")
    option("--yes", action="store_true", help="start even if the disk looks too small")


def _add_latents(add: Callable[..., argparse.ArgumentParser]) -> None:
    latents = add(
        "latents",
        help="a folder of images -> a store of VAE latents (mean and standard deviation) to train on",
        description="A folder of images (in class folders, with EDM2's dataset.json or a file of labels, or without "
        "labels), or a HF datasets copy (parquet or arrow files; docs/data.md) -> a store of VAE latents: mean and "
        "standard deviation of each image and of its mirror image, in float16. Or latents that others encoded "
        "(latents=): one .npy for each image, an .npz or .npy, or zarr -> a store of them as they are.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    latents.set_defaults(run=_latents, channels=None, pad=None, smaller="upscale", aside=0.0)
    option = latents.add_argument
    _add_source(option, needed=False)
    option("--latents", type=place, metavar="PLACE", help="instead of images: latents of a VAE, encoded elsewhere")
    option("--scale", type=float, help="of latents=: what they were multiplied by (1: as the VAE made them)")
    option("--shift", type=float, help="of latents=: what was taken away before (default: 0)")
    option("--holds", choices=("draw", "moments"), help="of latents=: one draw, or mean and deviation in 2C channels")
    option(
        "--flips", type=int, choices=(1, 2), help="of latents=: 2: (2, C, h, w), of the mirror image too (default: 1)"
    )
    option("--classes", type=int, metavar="N", help="of latents=: how many there are (default: by the largest label)")
    option("--resolution", type=int, default=256, help="side of the cropped images in pixels (default: 256)")
    option("--out", type=place, metavar="FOLDER", help="the store (default: data/imagenet-<resolution>)")
    option("--vae", help="folder, hub id, ft-ema or ft-mse (default: ft-ema, the papers'; of latents= none)")
    option("--batch", type=int, help="images per pass of the VAE; halved where memory runs out (default: 32)")
    option("--device", help="auto, cpu, cuda or cuda:K (default: auto; of latents= none)")
    option("--heldout", type=float, default=0.01, help="fraction of each class never trained on (default: 0.01)")
    option("--tf32", action="store_true", help="TF32 in the encoder: faster, latents differ by some 1e-3")
    _add_work(option)


def _add_reference(add: Callable[..., argparse.ArgumentParser]) -> None:
    reference = add(
        "reference",
        help="a folder of images -> reference statistics (FID, KID, precision and recall), in ADM's file format",
        description="A folder of images of any layout, an .npz or .npy of images (or a HF datasets copy: parquet or "
        "arrow files) -> one .npz in ADM's own format: mu, sigma, mu_s, sigma_s of all images, and some of the images "
        "themselves, for precision and recall. The same command again continues; under torchrun, or srun with several "
        "tasks, the processes share the work.",
    )
    reference.set_defaults(run=_reference)
    option = reference.add_argument
    option("--images", type=place, required=True, metavar="PATH", help="a folder, .npz, .npy, or parquet files")
    option("--resolution", type=int, default=256, help="side of the cropped images in pixels (default: 256)")
    option("--out", type=place, metavar="FILE", help="the file (default: data/reference-<resolution>.npz)")
    option("--keep", type=int, default=10_000, help="images kept for precision and recall (default: 10,000)")
    option("--batch", type=int, default=64, help="images per pass of the network")
    option("--features", choices=OF_ANY_IMAGES, default="inception")
    option("--dinov2", metavar="MODEL", help="of features=dinov2: a hub id or folder (default: evaluation.dinov2's)")
    option("--device", default="auto", help="auto, cpu, cuda or cuda:K (default: auto)")
    option("--unreadable", choices=("refuse", "skip"), default="refuse", help="what to do about damaged images")
    option("--workers", type=int, metavar="N", help="threads that read and crop (default: the cores, at most 16)")
    option("--huge", action="store_true", help="take images over Pillow's limit of 89 million pixels too")
    option("--image-key", metavar="COLUMN", help="of tables: the column of images (default: image, img, ...)")
    option("--split", help="of tables with several: validation, test, ... (default: train)")
    option("--range", help="of floats in an array: 0..1, -1..1 or 0..255")
    option("--layout", help="of an array whose shape does not tell: NHWC or NCHW")


def _add_features(add: Callable[..., argparse.ArgumentParser]) -> None:
    features = add(
        "features",
        help="a store of pixels -> its classifier, whose features images are compared by",
        description="Trains two small networks of two seeds on the images of a store of pixels that are set aside for "
        "that, and that no generator sees: on their labels where classes have enough images, else on which quarter "
        "turn an image is rotated by. Prints how well they read held-out images, beside chance; networks that read no "
        "better are refused as evaluators. Kept in the store; the same command again shows what is there. "
        "evaluation.features=classifier makes it by itself where it is not there yet.",
    )
    features.set_defaults(run=_features)
    features.add_argument("--data-path", type=place, required=True, metavar="STORE", help="the store (data.path=STORE)")
    features.add_argument(
        "--task",
        choices=("auto", "labels", "rotations"),
        default="auto",
        help="what is learned (default: labels where they can be)",
    )
    features.add_argument("--refusal", type=Path, help=argparse.SUPPRESS)  # for the command that starts this one


def _features(options: argparse.Namespace) -> None:
    from fcdm.evaluate import worker_of

    stop = StopSignal("stopping soon; of a classifier that is not whole nothing is kept")
    with worker_of("cpu", None, stop) as worker:
        from fcdm.engine.make_classifier import make_classifier

        store = worker.ranks.own_after_first(lambda: _with_classifier(options.data_path))
        try:
            found, made = make_classifier(store, worker, options.task)
        except Stopped as stopped:
            if worker.ranks.is_main:
                print(f"fcdm.prepare: {stopped}, nothing is kept; the same command begins again", file=sys.stderr)
            raise
        if worker.ranks.is_main:
            how = f"made in {found.facts['seconds']:g} s" if made else "there already"
            print(f"{found.path}: {found.id}, {how}: {found.told}", flush=True)


def _with_classifier(folder: Path) -> PixelStore:
    """The store. Raises UserError for one of latents, with what there is for its images instead."""
    from fcdm.data.manifest import LATENTS, read_manifest
    from fcdm.data.pixel_store import PixelStore

    manifest = read_manifest(folder)
    if manifest.kind == LATENTS:
        side = manifest.resolution
        made = f"python -m fcdm.prepare reference images=<its images> resolution={side} out=reference-{side}.npz"
        raise UserError(
            f"{folder} is a store of latents, and a classifier is of a store of pixels: images that are decoded have "
            f"the features inception or dinov2: `{made}` (for dinov2 with features=dinov2), then train with "
            f"evaluation.reference=reference-{side}.npz (and evaluation.features=dinov2)"
        )
    return PixelStore(folder)


def _add_channels(add: Callable[..., argparse.ArgumentParser]) -> None:
    channels = add(
        "channels",
        help="measure the channels of a latents store that was made before they were measured",
        description="A store of latents -> channels.json in it: mean and deviation of each channel, which "
        "data.normalisation=channel divides by. Stores are measured as they are made; this is for older ones.",
    )
    channels.set_defaults(run=_channels)
    channels.add_argument("--data-path", type=place, required=True, metavar="STORE", help="the store (data.path=STORE)")


OF_IMAGES = ("image_key", "label_key", "split", "range", "layout", "huge", "tf32", "device", "batch")
OF_LATENTS = ("scale", "shift", "holds", "flips", "classes")


def _latents(options: argparse.Namespace) -> None:
    """Of images, or of latents that lie there. Raises UserError for both, neither, and what belongs to the other."""
    if (options.images is None) == (options.latents is None):
        raise UserError("images=PLACE or latents=PLACE is wanted, one of the two; --help says what each is")
    chosen, unused = ("images", OF_LATENTS) if options.latents is None else ("latents", OF_IMAGES)
    if said := [name for name in unused if getattr(options, name) is not None and getattr(options, name) is not False]:
        name = said[0].replace("_", "-")
        raise UserError(f"{name}= has no effect with {chosen}=: leave it away")
    options.batch = 32 if options.batch is None else options.batch
    if options.latents is None:
        options.device = options.device or "auto"
        options.vae = options.vae or "ft-ema"
        _store(options)
        return
    if options.scale is None:
        raise UserError(
            "scale= is wanted: what the latents were multiplied by (0.18215 as fast-DiT writes them; 1: not)"
        )
    options.images, options.device = options.latents, "cpu"
    _store(options, imported=True)


def _channels(options: argparse.Namespace) -> None:
    from fcdm.data.channels import measure_channels
    from fcdm.data.manifest import read_manifest
    from fcdm.jobs.image_progress import TerminalBar

    with TerminalBar(1) as shown:
        shown.start(read_manifest(options.data_path).images, 0)
        found = measure_channels(options.data_path, shown.update)
    for name, values in (("mean", found.mean), ("deviation", found.deviation)):
        print(f"{name} of each channel: {', '.join(f'{value:.4g}' for value in values)}")


def _store(options: argparse.Namespace, imported: bool = False) -> None:
    from fcdm.data.encoding import StoreRequest
    from fcdm.data.import_latents import ImportRequest
    from fcdm.data.labelled_images import SourceOptions
    from fcdm.data.prepare_store import prepare_store
    from fcdm.engine.distributed import Ranks
    from fcdm.jobs.image_progress import TerminalBar

    of_latents = ImportRequest(
        options.scale, options.shift or 0.0, options.flips or 1, options.holds == "moments", options.classes
    ) if imported else None  # fmt: skip
    request = StoreRequest(
        imported=of_latents,
        images=options.images,
        resolution=options.resolution,
        out=options.out or Path(f"data/{_name(options)}-{options.resolution}"),
        vae=options.vae,
        channels=options.channels,
        pad=options.pad,
        smaller=options.smaller,
        aside=options.aside,
        options=SourceOptions(
            options.labels, options.image_key, options.label_key, options.split, options.range, options.layout
        ),
        batch=options.batch,
        unreadable=options.unreadable,
        workers=options.workers,
        heldout=options.heldout,
        shard_images=options.shard,
        huge=options.huge,
        tf32=options.tf32,
        anyway=options.yes,
    )
    ranks = Ranks.from_environment(options.device)
    try:
        with TerminalBar(ranks.world_size) as shown:
            prepare_store(request, ranks, shown)
    finally:
        ranks.close()


def _name(options: argparse.Namespace) -> str:
    """What a store is called that nobody has named."""
    from fcdm.data.manifest import store_name

    path: Path = options.images
    if options.vae is not None and not getattr(options, "latents", None):
        return "imagenet"
    return store_name(path if path.is_dir() else path.with_suffix(""))


def _reference(options: argparse.Namespace) -> None:
    from fcdm.evaluate import short_keys, worker_of
    from fcdm.features.space import Space
    from fcdm.runs.peers import peers
    from fcdm.runs.processes import cores

    out = options.out or Path(f"data/reference-{options.resolution}.npz")
    for name in ("resolution", "keep", "batch"):
        if getattr(options, name) < 1:
            raise UserError(f"{name}={getattr(options, name)} cannot be: at least 1")
    if options.workers is not None and options.workers < 1:
        raise UserError(f"workers={options.workers} cannot be: at least 1")
    if options.dinov2 is not None and options.features not in DINOV2:
        raise UserError(f"dinov2={options.dinov2} has no effect at features={options.features}: leave it away")
    space = Space(options.features, options.dinov2, channels=3)
    with short_keys(), worker_of(options.device, None) as worker:
        from fcdm.engine.reference_statistics import ReferenceRequest, make_reference

        workers = options.workers or max(1, min(16, cores() // peers().local_count))
        # What the first refuses is said once.
        images = worker.ranks.own_after_first(lambda: _images(options, workers))
        request = ReferenceRequest(
            out, options.resolution, options.keep, options.batch, options.unreadable, options.huge, space=space
        )
        for note in images.notes:
            worker.progress.note(note)
        worker.progress.note(f"{plural(images.count, 'image')} ({images.how}) in {images.path} -> {out}")
        made = make_reference(images, request, worker)
        if worker.ranks.is_main:
            print(f"{out}{'' if made else ' is whole already'}: evaluation.reference={out}", flush=True)


def _images(options: argparse.Namespace, workers: int) -> Images:
    """A folder of any layout, an .npz or .npy, or what `prepare latents` reads as tables. Raises UserError."""
    from fcdm.images.open_images import HoldsTables, open_images

    path: Path = options.images
    of_tables = {"image_key": options.image_key, "split": options.split}
    try:
        images = open_images(path, options.range, options.layout, workers, real=True)
    except HoldsTables:
        from fcdm.data.image_sources import open_tables
        from fcdm.images.picture_files import PictureFiles

        if asked := [key for key in ("range", "layout") if getattr(options, key)]:
            raise UserError(f"{asked[0]}= is for arrays, and {path} holds tables: leave it away") from None
        source = open_tables(path, **of_tables)
        return PictureFiles(source.root, source.names, source.read, workers, source.notes, source.checksum())
    if asked := [key for key, value in of_tables.items() if value]:
        raise UserError(f"{asked[0]}= is for parquet and arrow files, and {path} holds none: leave it away")
    return images


if __name__ == "__main__":
    end_process(main)
