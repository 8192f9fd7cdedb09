"""`python -m fcdm.prepare latents`: a folder of images becomes a store, however often it is killed."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from fcdm.codecs.vae import Vae, open_vae
from fcdm.codecs.vae_files import find_vae, vae_identity
from fcdm.data.encoding import ShardEncoder, StoreRequest
from fcdm.data.image_sources import open_source
from fcdm.data.latents import LatentsStore
from fcdm.data.manifest import check_manifest, manifest_checksum, read_manifest
from fcdm.data.prepare_store import plan_of
from fcdm.data.shards import Work, heldout_mask
from fcdm.errors import UserError
from fcdm.images.crop import pillow_settings, read_square
from fcdm.prepare import main
from tests.support.commands import Command, environment, told_by_ranks
from tests.support.prepared import KILLED, contents, one_line
from tests.support.tiny_images import CLASSES, bad_images, encoded, make_folder, picture, save_vae

SMALL = ("resolution=32", "shard=8", "batch=5", "device=cpu", "workers=2")


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vae(tmp_path_factory.mktemp("vae") / "tiny-vae")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, images: Path, vae: Path) -> Path:
    """A store made in one go."""
    out = tmp_path_factory.mktemp("whole") / "store"
    assert prepare(images, vae, out) == 0
    return out


def prepare(images: Path, vae: Path | str, out: Path, *more: str) -> int:
    return main(["latents", f"images={images}", f"vae={vae}", f"out={out}", *SMALL, *more])


def made(store: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((store / "made.json").read_text())
    return found


def test_the_command_line(fcdm: Command, images: Path, vae: Path, whole: Path, tmp_path: Path) -> None:
    options = ("latents", "--images", str(images), "--resolution", "32", "--vae", str(vae), "--out", "data/tiny")
    done = fcdm(*options, "--shard", "8", "--batch", "5", "--device", "cpu", module="fcdm.prepare")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "40 images of 3 classes" in done.stdout
    assert "20.5 kB in 5 shards" in done.stdout
    assert "data/tiny is whole: 40 images" in done.stdout
    assert "1 image with an EXIF orientation: it is ignored, as in ADM's loader" in done.stdout
    assert made(tmp_path / "data/tiny")["exif_orientation"] == 1
    assert "exif" not in (tmp_path / "data/tiny/manifest.json").read_text(), "a store made before keeps its checksum"
    assert contents(tmp_path / "data/tiny") == contents(whole)
    assert manifest_checksum(tmp_path / "data/tiny") == manifest_checksum(whole)


def test_what_is_in_the_store_is_the_vae_of_the_crop_and_of_its_mirror_image(
    images: Path, vae: Path, whole: Path
) -> None:
    store = LatentsStore(whole)
    names = (whole / "names.txt").read_text().splitlines()
    assert names == sorted(names)
    assert sorted(names) == sorted(path.relative_to(images).as_posix() for path in images.rglob("*.*"))
    assert store.manifest.classes == CLASSES
    assert [CLASSES[label] for label in store.labels] == [name.split("/")[0] for name in names]
    assert store.manifest.class_counts == (14, 13, 13)
    opened = open_vae(str(vae))
    with pillow_settings():
        squares = np.stack([read_square(images / name, 32) for name in names])
    for flip, pixels in enumerate((squares, squares[:, :, ::-1])):
        x = torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.no_grad():
            want = opened.model.encode(x).latent_dist
        found = torch.from_numpy(store.read(np.arange(40), np.full(40, bool(flip)))).float()
        torch.testing.assert_close(found[:, 0], want.mean, rtol=2e-3, atol=2e-3)
        torch.testing.assert_close(found[:, 1], want.std, rtol=2e-3, atol=2e-3)


def test_the_same_again_says_that_it_is_whole(
    images: Path, vae: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(whole)
    assert prepare(images, vae, whole) == 0
    assert "is whole already: 40 images" in capsys.readouterr().out
    assert contents(whole) == before


@pytest.mark.parametrize(
    ("where", "count", "standing"),
    [("fsync", 3, 2), ("write_json", 4, 2)],
    ids=["half a shard on the disk", "a shard without its mark"],
)
def test_killed_in_the_middle_then_resumed_is_the_same_byte_for_byte(
    where: str, count: int, standing: int, images: Path, vae: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "store"
    words = ["latents", f"images={images}", f"vae={vae}", f"out={out}", *SMALL]
    done = subprocess.run([sys.executable, "-c", KILLED, where, str(count), *words], env=environment(), timeout=120)
    assert done.returncode == -9
    assert not (out / "manifest.json").exists()
    assert len(list((out / "work").glob("0*.json"))) == standing
    with pytest.raises(UserError, match="unfinished"):
        LatentsStore(out)
    # A finished shard that has been damaged since is made again, an intact one is not touched.
    first, second = out / "shards/00000.npy", out / "shards/00001.npy"
    first.write_bytes(first.read_bytes()[:-1] + b"\xff")
    untouched = second.stat().st_mtime_ns

    assert prepare(images, vae, out) == 0

    assert contents(out) == contents(whole)
    assert second.stat().st_mtime_ns == untouched
    assert made(out)["exif_orientation"] == 1, "whoever made the shard"


def test_two_ranks_make_the_same_store(images: Path, vae: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    words = ["latents", f"images={images}", f"vae={vae}", f"out={out}", *SMALL]
    told = told_by_ranks(2, "-m", "fcdm.prepare", *words, timeout=120)
    assert "2 processes on cpu" in told[0][0]
    assert told[1][0] == ""
    assert contents(out) == contents(whole)
    assert made(out)["processes"] == 2
    assert made(out)["exif_orientation"] == 1


class Silent:
    def note(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...
    def start(self, images: int, done: int) -> None: ...
    def update(self, done: int) -> None: ...


class TwoRanks:
    """The main one of two processes, of which the other never answers."""

    rank, world_size, device = 0, 2, torch.device("cpu")


def test_the_main_process_waits_for_the_others_but_not_for_ever(
    images: Path, vae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = StoreRequest(images=images, resolution=32, out=tmp_path / "store", vae=str(vae), shard_images=8)
    plan, work = plan_of(request), Work(request.out)
    work.start(plan)
    job = ShardEncoder(request, plan, work, TwoRanks(), Silent(), None)
    monkeypatch.setattr("fcdm.data.encoding.PATIENCE", 0.1)
    with pytest.raises(UserError, match=r"5 shards of the other processes do not come"):
        job.wait()
    work.fail(1, "its disk is full")
    with pytest.raises(UserError, match="another process stopped: its disk is full"):
        job.wait()
    work.start(plan)
    for shard in range(5):
        work.refuse(shard, [(8 * shard + place, "no image") for place in range(5)])
    job.wait()
    with pytest.raises(UserError, match=r"25 of 40 images cannot be taken, 20 of them above, all in .*unreadable\.txt"):
        job.finish()
    assert len((work.folder / "unreadable.txt").read_text().splitlines()) == 25
    work.start(plan)
    assert work.ended() == set(), "a new start looks at them anew"


def test_unreadable_images_are_all_named_and_refused_or_left_out(
    vae: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = sorted(bad_images())
    images, out = make_folder(tmp_path / "images", images=30, bad=bad), tmp_path / "store"

    assert prepare(images, vae, out, "shard=4") == 1
    told = capsys.readouterr().err
    assert "5 of 35 images cannot be taken" in told.splitlines()[-1]
    assert all(any(name in line and ": " in line for line in told.splitlines()) for name in bad)
    assert not (out / "manifest.json").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in (out / "shards").iterdir()}
    assert kept

    assert prepare(images, vae, out, "shard=4", "--unreadable", "skip") == 0
    assert {name: (out / "shards" / name).stat().st_mtime_ns for name in kept} == kept, "nothing is done twice"
    skipped = [line.split("\t") for line in (out / "skipped.txt").read_text().splitlines()]
    assert sorted(Path(name).name for name, _ in skipped) == bad
    assert all(reason for _, reason in skipped)
    store = LatentsStore(out)
    assert len(store) == 30
    names = (out / "names.txt").read_text().splitlines()
    assert not {Path(name).name for name in names} & set(bad)
    assert store.read(np.arange(30)).shape == (30, 2, 4, 4, 4)

    again = tmp_path / "again"
    assert prepare(images, vae, again, "shard=4", "unreadable=skip", "workers=1") == 0
    assert contents(again) == contents(out)


def test_only_unreadable_images(vae: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = make_folder(tmp_path / "images", images=0, bad=["empty.jpg", "text.jpg"], odd=False)
    assert prepare(images, vae, tmp_path / "store", "--unreadable=skip") == 1
    assert "none of the 2 images" in capsys.readouterr().err.splitlines()[-1]


def test_a_second_process_on_the_same_folder_is_refused(
    images: Path, vae: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fcdm.runs.run_lock import claim

    with claim(tmp_path / "store/work"):
        assert prepare(images, vae, tmp_path / "store") == 1
    told = capsys.readouterr().err
    assert f"is held by process {os.getpid()}" in told
    assert told.count("\n") == 1


def test_another_command_on_an_unfinished_or_whole_store_is_refused(
    images: Path, vae: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = save_vae(tmp_path / "other-vae", seed=1)
    assert prepare(images, other, whole) == 1
    assert "was made with tiny-vae" in one_line(capsys)
    assert prepare(images, vae, whole, "resolution=64") == 1
    assert "resolution=32, resolution=64 is asked for" in one_line(capsys)
    assert prepare(images, vae, whole, "heldout=0") == 1
    assert "a whole store with heldout 0.01, not 0.0" in one_line(capsys)
    more = make_folder(tmp_path / "more", images=20)
    assert prepare(more, vae, whole) == 1
    assert "a whole store of other images" in one_line(capsys)
    out = tmp_path / "unfinished"
    (out / "work").mkdir(parents=True)
    (out / "work/plan.json").write_text('{"format": 1, "resolution": 64}')
    assert prepare(images, vae, out) == 1
    assert "unfinished store of another command (resolution 64, not 32" in one_line(capsys)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["images={nothing}"], "does not exist"),
        (["images={file}"], "is a file, not a folder"),
        (["images={empty}"], "has no images"),
        (["images={columns}"], "has the columns picture, label: image_key=COLUMN says which holds images"),
        (["images={torn}"], "cannot be read"),
        (["images={images}", "vae={nothing}"], "no such folder"),
        (["images={images}", "vae=./nothing"], "no such folder"),
        (["images={images}", "vae={empty}"], "holds no VAE"),
        (["images={images}", "vae={damaged}"], "cannot be read as a VAE"),
        (["images={images}", "vae={code}"], "cannot be read as a VAE"),
        (["images={images}", "vae={keys}"], "missing keys"),
        (["images={images}", "vae={other}"], "describes no AutoencoderKL"),
        (["images={images}", "vae=stabilityai/sd-vae-ft-ema"], "hf download stabilityai/sd-vae-ft-ema"),
        (["images={images}", "vae=ft-mse"], "sd-vae-ft-mse"),
        (["images={images}", "vae={nan}"], "no float16 numbers"),
        (["images={images}", "resolution=30"], "not a multiple of 8"),
        (["images={images}", "resolution=abc"], "invalid int value"),
        (["images={images}", "batch=0"], "batch=0 cannot be"),
        (["images={images}", "heldout=1"], "heldout=1"),
        (["images={images}", "--unreadable", "ask"], "invalid choice"),
        (["images={images}", "device=tpu"], "device=tpu is not known"),
        (["images={images}", "reslution=32"], "unrecognized arguments"),
        ([], "images=PLACE or latents=PLACE is wanted"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str],
    says: str,
    bad_things: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    given = [word.format(**bad_things) for word in words]
    keys = {word.split("=")[0] for word in given}
    defaults = (f"vae={bad_things['vae']}", f"out={tmp_path / 'store'}", *SMALL)
    assert main(["latents", *given, *(word for word in defaults if word.split("=")[0] not in keys)]) == 1
    assert says in one_line(capsys)
    assert not (tmp_path / "store/manifest.json").exists()


@pytest.fixture(scope="module")
def bad_things(tmp_path_factory: pytest.TempPathFactory, images: Path, vae: Path) -> dict[str, Path]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    root = tmp_path_factory.mktemp("bad")
    kinds = ("empty", "columns", "torn", "damaged", "code", "keys", "other", "nan")
    found = {"images": images, "vae": vae, "nothing": root / "nothing", "file": root / "file"}
    for kind in kinds:
        (root / kind).mkdir(parents=True)
        found[kind] = root / kind
    (root / "file").write_text("")
    pq.write_table(pa.table({"picture": [b""], "label": [0]}), root / "columns/data.parquet")
    (root / "torn/data.parquet").write_bytes(b"PAR1 no")
    config = (vae / "config.json").read_text()
    weights = load_file(vae / "diffusion_pytorch_model.safetensors")
    for kind in ("damaged", "code", "keys", "nan"):
        (root / kind / "config.json").write_text(config)
    (root / "damaged/diffusion_pytorch_model.safetensors").write_bytes(b"\0" * 100)
    torch.save({"x": Evil()}, root / "code/diffusion_pytorch_model.bin")
    some = {name: tensor for name, tensor in weights.items() if "quant" not in name}
    save_file(some, root / "keys/diffusion_pytorch_model.safetensors")
    broken = {name: tensor * float("nan") if name == "quant_conv.bias" else tensor for name, tensor in weights.items()}
    save_file(broken, root / "nan/diffusion_pytorch_model.safetensors")
    (root / "other/config.json").write_text(json.dumps(json.loads(config) | {"_class_name": "VQModel"}))
    save_file(weights, root / "other/diffusion_pytorch_model.safetensors")
    return found


class Evil:
    """Would run code when unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('code ran')",))


def test_a_disk_that_is_too_small_is_refused_with_numbers(
    images: Path, vae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    small = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr("fcdm.data.prepare_store.shutil.disk_usage", lambda path: small)
    assert prepare(images, vae, tmp_path / "store") == 1
    told = one_line(capsys)
    assert "needs 23 kB and the disk has 10 kB free" in told
    assert prepare(images, vae, tmp_path / "store", "--yes") == 0


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_copy_of_datasets_is_read_like_the_folder(
    kind: str, images: Path, vae: Path, whole: Path, tmp_path: Path
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = (whole / "names.txt").read_text().splitlines()
    labels = [CLASSES.index(name.split("/")[0]) for name in names]
    features = {"info": {"features": {"label": {"names": list(CLASSES), "_type": "ClassLabel"}}}}
    root = tmp_path / "copy"
    root.mkdir()
    for part, rows in enumerate((slice(0, 25), slice(25, 40))):
        values = [{"bytes": (images / name).read_bytes(), "path": name} for name in names[rows]]
        table = pa.table({"image": values, "label": labels[rows]})
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
        if kind == "parquet":
            pq.write_table(table, root / f"train-{part:05d}-of-00002.parquet", row_group_size=4)
        else:
            with pa.ipc.new_stream(root / f"data-{part:05d}-of-00002.arrow", table.schema) as file:
                file.write_table(table)
    if kind == "parquet":
        pq.write_table(pa.table({"image": [], "label": []}), root / "test-00000-of-00001.parquet")
    assert prepare(root, vae, tmp_path / "store") == 0
    store, want = LatentsStore(tmp_path / "store"), LatentsStore(whole)
    assert store.manifest.classes == CLASSES
    assert np.array_equal(store.labels, want.labels)
    # Batches end where shards do, so the same images were encoded together.
    assert np.array_equal(store.read(np.arange(40)), want.read(np.arange(40)))


def test_how_the_images_are_to_be_read_is_said_on_the_command_line(images: Path, vae: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted(images.rglob("*.png"))[:6]
    (tmp_path / "labels.tsv").write_text("".join(f"{f.relative_to(images)}\t{n % 2}\n" for n, f in enumerate(files)))
    for file in files:
        copy = tmp_path / "images" / file.relative_to(images)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    columns = {"jpg": [file.read_bytes() for file in files], "png": [b""] * 6, "age": list(range(6))}
    for split in ("train", "dev"):
        pq.write_table(pa.table(columns), tmp_path / f"x-{split}.parquet")

    assert prepare(tmp_path / "images", vae, tmp_path / "one", f"labels={tmp_path / 'labels.tsv'}") == 0
    assert LatentsStore(tmp_path / "one").manifest.class_counts == (3, 3)
    assert made(tmp_path / "one")["labels"] == str(tmp_path / "labels.tsv")
    assert prepare(tmp_path, vae, tmp_path / "two", "split=dev", "image_key=jpg", "label-key=age") == 0
    assert LatentsStore(tmp_path / "two").labels.tolist() == list(range(6))
    assert (tmp_path / "two/names.txt").read_text().splitlines()[0] == "x-dev.parquet:0"
    asked = {key: made(tmp_path / "two")[key] for key in ("split", "image_key", "label_key")}
    assert asked == {"split": "dev", "image_key": "jpg", "label_key": "age"}


def test_class_folders_whose_names_are_no_text(vae: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "images" / os.fsdecode(b"caf\xe9")
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(encoded(Image.fromarray(picture(1)), "PNG"))
    assert prepare(tmp_path / "images", vae, tmp_path / "store") == 0
    assert "one class (caf\\udce9)" in capsys.readouterr().out
    assert LatentsStore(tmp_path / "store").manifest.classes == (folder.name,)


def test_a_data_set_that_is_not_understood_leaves_nothing(
    images: Path, vae: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(images, tmp_path / "root/train")
    assert prepare(tmp_path / "root", vae, tmp_path / "store") == 1
    assert f"say images={tmp_path / 'root/train'}" in one_line(capsys)
    assert not (tmp_path / "store").exists()


def test_the_vae_of_an_older_diffusers_and_its_identity(vae: Path, tmp_path: Path) -> None:
    """The public SD-VAE files name the attention's weights in the old way."""
    old = tmp_path / "old"
    old.mkdir()
    (old / "config.json").write_text((vae / "config.json").read_text())
    renamed = {}
    for name, tensor in load_file(vae / "diffusion_pytorch_model.safetensors").items():
        for new, before in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{before}.")
        renamed[name] = tensor
    torch.save(renamed, old / "diffusion_pytorch_model.bin")
    x = torch.rand(3, 3, 16, 24) * 2 - 1
    for found, want in zip(open_vae(str(old)).encode(x), open_vae(str(vae)).encode(x), strict=True):
        assert torch.equal(found, want)
    mine, other = vae_identity(str(vae)), vae_identity(str(old))
    assert mine.weights_sha256 != other.weights_sha256
    assert (mine.channels, mine.downsample, mine.scaling_factor) == (4, 8, 0.18215)
    assert mine.id == f"vae@{mine.weights_sha256[:8]}"


def test_a_scaling_factor_of_zero_is_not_the_default(vae: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(vae, tmp_path / "vae"))
    values = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(values | {"scaling_factor": 0.0}))
    with pytest.raises(UserError, match="scaling_factor is 0"):
        vae_identity(str(copy))


def test_the_id_of_a_vae_is_what_it_decodes_with(vae: Path, tmp_path: Path) -> None:
    """Not the folder's name; and the scale and shift of its config.json as well as its weights."""
    config = json.loads((vae / "config.json").read_text())

    def edited(name: str, **changes: float) -> str:
        copy = tmp_path / name
        shutil.copytree(vae, copy)
        (copy / "config.json").write_text(json.dumps(config | changes))
        return vae_identity(str(copy)).id

    plain = vae_identity(str(vae)).id
    assert edited("elsewhere") == plain
    assert edited("scaled", scaling_factor=1.5305) == plain + "*1.5305"
    assert edited("shifted", scaling_factor=1.5305, shift_factor=0.0609) == plain + "*1.5305+0.0609"


def test_a_hub_id_is_found_in_the_cache_without_network(
    vae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "hub/models--stabilityai--sd-vae-ft-ema"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text("abc")
    (cached / "snapshots").mkdir()
    (cached / "snapshots/abc").symlink_to(vae)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("fcdm.codecs.hub_files._hub_in_reach", lambda: pytest.fail("no network is needed"))
    assert find_vae("ft-ema").name == "stabilityai/sd-vae-ft-ema"
    assert vae_identity("ft-ema").id == f"stabilityai/sd-vae-ft-ema@{vae_identity(str(vae)).weights_sha256[:8]}"
    opened = open_vae("ft-ema")
    assert opened.identity.weights_sha256 == vae_identity(str(vae)).weights_sha256


def test_the_vae_of_a_store_is_known_by_its_weights(
    vae: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another folder of the same name is another VAE; the same weights under another name are not."""
    same, other = tmp_path / "copy", save_vae(tmp_path / "other" / vae.name, seed=1)
    shutil.copytree(vae, same)
    manifest = read_manifest(whole)
    assert manifest.vae == other.name
    check_manifest(whole, manifest, vae=str(same))
    with pytest.raises(UserError, match=r"was made with tiny-vae .* \(weights .* is asked for: say its VAE"):
        check_manifest(whole, manifest, vae=str(other))
    with pytest.raises(UserError, match="not on this machine: say the folder of its VAE"):
        check_manifest(whole, manifest, vae=vae.name)  # a folder's name alone is none to be found by
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    elsewhere = dataclasses.replace(manifest, vae="stabilityai/sd-vae-ft-ema")
    check_manifest(whole, elsewhere, vae="ft-ema")  # encoded on another machine: no weights to compare


def test_decoding_is_the_vaes_in_batches(vae: Path) -> None:
    opened = open_vae(str(vae), batch=2)
    latents = torch.randn(5, 4, 3, 3)
    with torch.no_grad():
        want = opened.model.decode(latents / 0.18215).sample
    found = opened.decode(latents)
    assert found.shape == (5, 3, 24, 24)
    assert found.dtype == torch.uint8
    assert ((127.5 * want + 128).clamp(0, 255) - found.float()).abs().max() <= 1.01
    with pytest.raises(UserError, match="NaN"):
        opened.decode(latents * float("nan"))


def test_where_memory_runs_out_the_batch_is_halved(vae: Path) -> None:
    opened = open_vae(str(vae), batch=8)
    latents = torch.randn(7, 4, 2, 2)
    want = opened.decode(latents)

    class Small:
        """A decoder with memory for `room` images."""

        def __init__(self, room: int) -> None:
            self.room, self.seen = room, []

        def decode(self, part: torch.Tensor) -> object:
            self.seen.append(len(part))
            if len(part) > self.room:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return opened.model.decode(part)

    small = Small(room=3)
    decoder = Vae(small, opened.identity, torch.device("cpu"), batch=8)
    assert (decoder.decode(latents).int() - want.int()).abs().max() <= 1
    assert small.seen == [7, 3, 3, 1]
    assert decoder.batch == 3
    with pytest.raises(UserError, match="no memory for one image"):
        Vae(Small(room=0), opened.identity, torch.device("cpu")).decode(latents)


def test_the_heldout_images_are_stratified_and_stay_when_others_come() -> None:
    labels = np.repeat(np.arange(4, dtype=np.int32), [300, 9, 10, 49])
    names = [f"{label}/{n}.png" for n, label in enumerate(labels)]
    found = heldout_mask(names, labels, 0.01)
    assert np.bincount(labels[found], minlength=4).tolist() == [3, 0, 1, 1]
    order = np.random.default_rng(0).permutation(len(names))
    assert np.array_equal(heldout_mask([names[i] for i in order], labels[order], 0.01), found[order])
    assert not heldout_mask(names, labels, 0.0).any()
    more = heldout_mask([*names, "0/new.png"], np.append(labels, np.int32(0)), 0.01)
    assert (more[:-1] != found).sum() <= 1


def test_a_folder_is_listed_by_class_then_path(tmp_path: Path) -> None:
    for name in ("a/x.png", "a-1/y.png", "a/deep/z.PNG", "a/note.txt", "a/._x.png", "b/1.jpeg", "loose.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = open_source(tmp_path)
    assert found.classes == ["a", "a-1", "b"]
    assert found.names == ["a/deep/z.PNG", "a/x.png", "a-1/y.png", "b/1.jpeg"]
    assert found.labels.tolist() == [0, 0, 1, 2]
    assert "2 other files were left out" in found.notes[0]


def test_help_is_fast_and_needs_no_torch() -> None:
    script = (
        "import sys\nfrom fcdm.prepare import main\n"
        "try:\n    main(['latents', '--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'numpy', 'diffusers', 'rich'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "torchrun" in done.stdout
