"""`python -m fcdm.prepare latents ...`: what a study on ImageNet needs before its first step.

The same command again continues. Under torchrun, or `srun` with several tasks, the processes share the work.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fcdm.errors import OneLineParser, UserError, as_options
from fcdm.paths import home_expanded, place

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from fcdm.data.image_sources import ImageSource

EXAMPLES = """examples:
  python -m fcdm.prepare latents --images /data/imagenet/train --resolution 256
  python -m fcdm.prepare latents images=/data/imagenet/train resolution=512 vae=/models/sd-vae-ft-ema
  python -m fcdm.prepare latents images=photos labels=photos.csv out=data/photos
  python -m fcdm.prepare latents images=cifar100/train-00000-of-00001.parquet label_key=coarse_label out=data/cifar20
  torchrun --standalone --nproc-per-node 8 -m fcdm.prepare latents --images /data/imagenet/train
  srun --ntasks 8 --gpus-per-task 1 --cpus-per-task 12 python -m fcdm.prepare latents --images /data/imagenet/train

The same command again continues: finished shards are kept. No network is needed once the VAE is in the hub's cache
(hf download stabilityai/sd-vae-ft-ema) or in a folder."""


def main(arguments: list[str] | None = None) -> int:
    """Runs one subcommand. Returns the exit code: 1 after a one-line message."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        options = _parser().parse_args(as_options(words))
        run: Callable[[argparse.Namespace], None] = options.run
        run(options)
    except UserError as error:
        print(f"fcdm.prepare: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("fcdm.prepare: interrupted; the same command continues", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="python -m fcdm.prepare", description="Makes what a study needs before its first step.")
    commands = parser.add_subparsers(title="what to prepare", metavar="WHAT", required=True)
    _add_latents(commands.add_parser)
    _add_reference(commands.add_parser)
    return parser


def _add_latents(add: Callable[..., argparse.ArgumentParser]) -> None:
    latents = add(
        "latents",
        help="a folder of images -> a store of VAE latents (mean and standard deviation) to train on",
        description="A folder of images (in class folders, with EDM2's dataset.json or a file of labels, or without "
        "labels), or a HF datasets copy (parquet or arrow files; docs/data.md) -> a store of VAE latents: mean and "
        "standard deviation of each image and of its mirror image, in float16.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    latents.set_defaults(run=_latents)
    option = latents.add_argument
    option("--images", type=place, required=True, metavar="PLACE", help="a folder, or one parquet or arrow file")
    option(
        "--labels",
        type=home_expanded,
        metavar="FILE",
        help="json, csv or tsv: path, label; folders: by class folder; none: one class",
    )
    option("--image-key", metavar="COLUMN", help="of parquet and arrow files (default: image, img, webp, jpg, png)")
    option("--label-key", metavar="COLUMN", help="the same (default: label, labels, cls, fine_label)")
    option("--split", metavar="NAME", help="of several in parquet and arrow files (default: train)")
    option("--resolution", type=int, default=256, help="side of the cropped images in pixels (default: 256)")
    option("--out", type=place, metavar="FOLDER", help="the store (default: data/imagenet-<resolution>)")
    option("--vae", default="ft-ema", help="folder, hub id, ft-ema or ft-mse (default: ft-ema, the papers')")
    option("--batch", type=int, default=32, help="images per pass of the VAE; halved where memory runs out")
    option("--device", default="auto", help="auto, cpu, cuda or cuda:K (default: auto)")
    option("--unreadable", choices=("refuse", "skip"), default="refuse", help="what to do about damaged images")
    option("--workers", type=int, metavar="N", help="threads that read and crop (default: the cores, at most 16)")
    option("--heldout", type=float, default=0.01, help="fraction of each class never trained on (default: 0.01)")
    option("--shard", type=int, default=4096, metavar="IMAGES", help="images per shard file (default: 4096)")
    option("--huge", action="store_true", help="take images over Pillow's limit of 89 million pixels too")
    option("--tf32", action="store_true", help="TF32 in the encoder: faster, latents differ by some 1e-3")
    option("--yes", action="store_true", help="start even if the disk looks too small")


def _add_reference(add: Callable[..., argparse.ArgumentParser]) -> None:
    reference = add(
        "reference",
        help="a folder of images -> reference statistics (FID, sFID, precision and recall), in ADM's file format",
        description="A folder of class folders of images -> one .npz in ADM's own format: mu, sigma, mu_s, sigma_s of "
        "all images, and some of the images themselves, for precision and recall.",
    )
    reference.set_defaults(run=_reference)
    option = reference.add_argument
    option("--images", type=place, required=True, metavar="FOLDER", help="FOLDER/<class>/<image>, or parquet files")
    option("--resolution", type=int, default=256, help="side of the cropped images in pixels (default: 256)")
    option("--out", type=place, metavar="FILE", help="the file (default: data/reference-<resolution>.npz)")
    option("--keep", type=int, default=10_000, help="images kept for precision and recall (default: 10,000)")
    option("--batch", type=int, default=64, help="images per pass of Inception")
    option("--device", default="auto", help="auto, cpu, cuda or cuda:K (default: auto)")
    option("--workers", type=int, default=4, metavar="N", help="threads that read and crop (default: 4)")


def _latents(options: argparse.Namespace) -> None:
    from fcdm.slurm.rank_env import export_ranks

    export_ranks()
    from fcdm.data.encoding import StoreRequest
    from fcdm.data.prepare_latents import prepare_latents
    from fcdm.engine.distributed import Ranks
    from fcdm.jobs.image_progress import TerminalBar

    request = StoreRequest(
        images=options.images,
        resolution=options.resolution,
        out=options.out or Path(f"data/imagenet-{options.resolution}"),
        vae=options.vae,
        labels=options.labels,
        image_key=options.image_key,
        label_key=options.label_key,
        split=options.split,
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
            prepare_latents(request, ranks, shown)
    finally:
        ranks.close()


def _reference(options: argparse.Namespace) -> None:
    from fcdm.data.image_sources import open_source

    out = options.out or Path(f"data/reference-{options.resolution}.npz")
    for name in ("resolution", "keep", "batch", "workers"):
        if getattr(options, name) < 1:
            raise UserError(f"{name}={getattr(options, name)} cannot be: at least 1")
    source = open_source(options.images)
    if out.exists():
        raise UserError(f"{out} is there already: remove it, or say out=<another file>")
    from fcdm.engine.distributed import choose_device
    from fcdm.features import open_extractor
    from fcdm.features.make_reference import write_reference
    from fcdm.jobs.image_progress import TerminalBar

    extractor = open_extractor("inception", choose_device(options.device, 0))
    with TerminalBar(1) as shown:
        shown.note(f"{len(source):,} images of {len(source.classes)} classes -> {out}")
        shown.start(len(source), 0)
        batches = _squares(source, options.resolution, options.batch, options.workers)
        warnings = write_reference(out, batches, extractor, options.keep, progress=shown.update)
    for warning in warnings:
        shown.warn(warning)
    shown.note(f"{out}: evaluation.reference={out}")


def _squares(source: ImageSource, size: int, batch: int, workers: int) -> Iterator[Tensor]:
    """The source's images, cropped, as batches (n, 3, size, size) uint8. Raises UserError for an unreadable one."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np
    import torch

    from fcdm.data.images import Unreadable, pillow_settings, read_square

    def read(number: int) -> NDArray[np.uint8]:
        try:
            return read_square(source.read(number), size)
        except Unreadable as error:
            raise UserError(f"{source.root / source.names[number]}: {error}: remove it, or mend it") from None

    with pillow_settings(), ThreadPoolExecutor(workers) as pool:
        for first in range(0, len(source), batch):
            some = list(pool.map(read, range(first, min(first + batch, len(source)))))
            yield torch.from_numpy(np.stack(some)).permute(0, 3, 1, 2)


if __name__ == "__main__":
    sys.exit(main())
