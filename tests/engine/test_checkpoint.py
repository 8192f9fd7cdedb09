"""Checkpoints: bit for bit, whole or not there, verified before use; with real kills and real limits."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fcdm.engine import checkpoint
from fcdm.engine.checkpoint import latest_checkpoint, load_checkpoint, prune, save_checkpoint
from fcdm.engine.host_copy import Groups
from fcdm.errors import UserError
from fcdm.runs.checkpoints import BrokenCheckpoint, checkpoints


def groups(value: float = 1.0) -> Groups:
    return {"model": {"a": torch.full((3, 5), value)}, "ema": {"a": torch.full((3, 5), -value)}}


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def newest(folder: Path, warn: Callable[[str], None]) -> tuple[Groups, dict[str, Any]] | None:
    path = latest_checkpoint(folder, warn)
    return None if path is None else load_checkpoint(path)


def fail(message: str) -> None:
    raise AssertionError(message)


def flip(path: Path, position: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[position] ^= 0x10
    path.write_bytes(raw)


def test_round_trip_bit_for_bit(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    convolution = torch.randn(6, 4, 3, 3, generator=generator).to(memory_format=torch.channels_last)
    assert not convolution.is_contiguous()
    base = torch.randn(8, 8, generator=generator)
    tensors = {
        "model": {
            "channels_last": convolution,
            "parameter": torch.nn.Parameter(base),
            "same storage": base,
            "transposed": base.t(),
            "slice": base[2:5, ::2],
            "bf16": torch.randn(7, generator=generator).bfloat16(),
            "half": torch.randn(3, generator=generator).half(),
            "double": torch.randn(2, 2, generator=generator, dtype=torch.float64),
            "odd": torch.tensor([float("nan"), float("inf"), -0.0, 1e-45]),
            "large": torch.randn(5, 1 << 20, generator=generator),  # 20 MB: more than one chunk
        },
        "optimiser": {
            "step": torch.tensor(2**53 + 1),
            "flag": torch.tensor([True, False, True]),
            "bytes": torch.arange(5, dtype=torch.uint8),
            "small": torch.tensor([-3], dtype=torch.int32),
            "none": torch.empty(0, 4),
        },
        "empty": {},
    }
    extra = {"loss_sum": 0.1 + 0.2, "count": 3, "names": ["a", "ü"]}
    path = save_checkpoint(tmp_path / "checkpoints", 400, tensors, extra)
    assert path == tmp_path / "checkpoints" / "step-00000400"
    assert names(path) == ["empty.safetensors", "manifest.json", "model.safetensors", "optimiser.safetensors"]
    loaded, manifest = load_checkpoint(path)
    assert (manifest["step"], manifest["extra"]) == (400, extra)
    assert loaded.keys() == tensors.keys()
    for group, members in tensors.items():
        assert loaded[group].keys() == members.keys()
        for name, tensor in members.items():
            back = loaded[group][name]
            assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape), name
            assert bits(back) == bits(tensor.detach()), name
    # The library itself reads our files, and its own of the same tensors says the same.
    theirs = load_file(path / "model.safetensors")
    assert bits(theirs["channels_last"]) == bits(convolution)
    restored = torch.empty_like(convolution)
    restored.copy_(loaded["model"]["channels_last"])
    assert restored.stride() == convolution.stride()
    assert torch.equal(restored, convolution)


def test_loaded_tensors_outlive_their_file(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, groups(2.0), {})
    loaded, _ = load_checkpoint(path)
    with open(path / "model.safetensors", "r+b") as file:
        file.truncate(0)  # would be a bus error were the tensor still the mapped file
    assert torch.equal(loaded["model"]["a"], torch.full((3, 5), 2.0))
    loaded["model"]["a"].add_(1)


def test_only_the_groups_asked_for_are_read(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, groups(), {})
    (path / "model.safetensors").unlink()
    loaded, _ = load_checkpoint(path, ["ema"])
    assert list(loaded) == ["ema"]
    with pytest.raises(BrokenCheckpoint, match=r"step-00000001 is broken: model\.safetensors is missing"):
        load_checkpoint(path)
    with pytest.raises(UserError, match="has no optimiser, only model, ema"):
        load_checkpoint(path, ["optimiser"])


def test_a_whole_checkpoint_is_not_written_again_a_broken_one_is(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, groups(1.0), {})
    assert save_checkpoint(tmp_path, 1, groups(2.0), {}) == path
    assert load_checkpoint(path)[0]["model"]["a"][0, 0] == 1.0
    flip(path / "ema.safetensors", -1)
    save_checkpoint(tmp_path, 1, groups(2.0), {})
    assert load_checkpoint(path)[0]["model"]["a"][0, 0] == 2.0
    assert names(tmp_path) == ["step-00000001"]


@pytest.mark.parametrize("file", ["model.safetensors", "ema.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", ["head", "middle", "last", "cut", "empty", "missing"])
def test_a_damaged_newest_is_skipped_with_a_warning(tmp_path: Path, file: str, damage: str) -> None:
    save_checkpoint(tmp_path, 100, groups(1.0), {"note": "first"})
    path = save_checkpoint(tmp_path, 200, groups(2.0), {"note": "second"}) / file
    size = path.stat().st_size
    if damage == "missing":
        path.unlink()
    elif damage in ("cut", "empty"):
        os.truncate(path, size - 3 if damage == "cut" else 0)
    else:
        flip(path, {"head": 3, "middle": size // 2, "last": size - 2}[damage])
    warnings: list[str] = []
    found = newest(tmp_path, warnings.append)
    assert found is not None
    tensors, manifest = found
    assert manifest["extra"] == {"note": "first"}
    assert tensors["model"]["a"][0, 0] == 1.0
    assert len(warnings) == 1
    assert "step-00000200 is broken" in warnings[0]
    assert file in warnings[0]
    # Training goes on from 100 and saves at 150: the broken one must not count as the newest ever after.
    save_checkpoint(tmp_path, 150, groups(1.5), {})
    prune(tmp_path, 1, set())
    assert names(tmp_path) == ["step-00000150"]


def test_every_flipped_byte_of_a_checkpoint_is_noticed(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, {"model": {"a": torch.arange(4.0)}}, {"loss_sum": 1.25, "note": "x"})
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        for position in range(len(whole)):
            flip(file, position)
            try:
                tensors, manifest = load_checkpoint(path)
            except BrokenCheckpoint:
                pass
            else:  # spaces between the manifest's words carry nothing
                assert file.name == "manifest.json"
                assert (manifest["step"], manifest["extra"]) == (1, {"loss_sum": 1.25, "note": "x"})
                assert torch.equal(tensors["model"]["a"], torch.arange(4.0))
            file.write_bytes(whole)


def test_none_whole_or_none_at_all(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "nothing", fail) is None
    assert checkpoints(tmp_path / "nothing") == []
    path = save_checkpoint(tmp_path, 1, groups(), {})
    (path / "manifest.json").unlink()
    warnings: list[str] = []
    assert latest_checkpoint(tmp_path, warnings.append) is None
    assert len(warnings) == 1


def test_prune_keeps_the_last_and_every_budget(tmp_path: Path) -> None:
    for step in (100, 200, 300, 400, 500):
        save_checkpoint(tmp_path, step, groups(), {})
    (tmp_path / ".tmp-step-00000600-1-abcd").mkdir()
    (tmp_path / ".tmp-step-00000600-1-abcd" / "model.safetensors").write_text("half")
    (tmp_path / ".trash-step-00000050-1-abcd").mkdir()
    (tmp_path / "step-00000500" / "ema.safetensors").unlink()
    prune(tmp_path, 2, {100})
    assert names(tmp_path) == ["step-00000100", "step-00000300", "step-00000400"]
    assert [step for step, _ in checkpoints(tmp_path)] == [100, 300, 400]
    with pytest.raises(ValueError, match="at least 1"):
        prune(tmp_path, 0, set())
    prune(tmp_path / "nothing", 1, set())


KILLED = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
from fcdm.engine.checkpoint import latest_checkpoint, load_checkpoint, prune, save_checkpoint
from fcdm.runs.checkpoints import checkpoints

folder, kills = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
rng = random.Random(0)

def save_for_ever(step):
    while True:
        step += 1
        value = float(step)
        groups = {g: {"w": torch.full((1 << 18,), value)} for g in ("model", "ema", "optimiser")}
        save_checkpoint(folder, step, groups, {"value": value})
        prune(folder, 2, set())

begin = time.monotonic()
first = {group: {"w": torch.ones(1 << 18)} for group in ("model", "ema", "optimiser")}
save_checkpoint(folder, 1, first, {"value": 1.0})
one_save = time.monotonic() - begin  # on a busy disk ten times an idle one's
step, unfinished, warnings = 1, 0, []
for _ in range(kills):
    child = os.fork()
    if child == 0:
        try:
            save_for_ever(step)
        finally:
            os._exit(1)
    time.sleep(rng.uniform(0.0, 3 * one_save))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), status
    unfinished += any(path.name.startswith(".tmp-") for path in folder.iterdir())
    tensors, manifest = load_checkpoint(latest_checkpoint(folder, warnings.append))
    assert manifest["step"] >= step, (manifest["step"], step)
    step = manifest["step"]
    assert manifest["step"] == max(s for s, _ in checkpoints(folder))
    for group in ("model", "ema", "optimiser"):
        assert bool((tensors[group]["w"] == manifest["extra"]["value"]).all())
prune(folder, 2, set())
print(json.dumps({"step": step, "unfinished": unfinished, "warnings": warnings,
                  "left": sorted(p.name for p in folder.iterdir())}))
"""


def test_killed_at_any_moment_the_newest_always_loads(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), "25"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["warnings"] == []
    assert told["unfinished"] > 1, "the kills must have struck in the middle of saving"
    assert told["step"] > 2
    assert len(told["left"]) <= 2
    assert all(name.startswith("step-") for name in told["left"])


@pytest.mark.parametrize("call", range(1, 6))
def test_a_full_disk_leaves_the_old_checkpoint_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """Full at the first, second ... flush: of each file, the manifest, the folder."""
    save_checkpoint(tmp_path, 100, groups(1.0), {})
    real, calls = os.fsync, [0]

    def full(descriptor: int) -> None:
        calls[0] += 1
        if calls[0] == call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError) as caught:
        save_checkpoint(tmp_path, 200, groups(2.0), {})
    monkeypatch.undo()
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'step-00000200'}: the disk is full (")
    assert "GB free) while saving the checkpoint of step 200 (0.00 GB): free some space" in message
    assert "\n" not in message
    # The fifth flush is of the parent after the rename: by then the new checkpoint is whole.
    assert names(tmp_path) == (["step-00000100"] if call < 5 else ["step-00000100", "step-00000200"])
    found = newest(tmp_path, fail)
    assert found is not None
    assert found[1]["step"] == (100 if call < 5 else 200)
    save_checkpoint(tmp_path, 300, groups(3.0), {})


def test_a_full_disk_in_the_middle_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, 100, groups(1.0), {})
    real, calls = checkpoint._bytes_of, [0]

    def full(tensor: Tensor) -> memoryview:
        calls[0] += 1
        if calls[0] == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(tensor)

    monkeypatch.setattr(checkpoint, "_bytes_of", full)
    with pytest.raises(UserError, match="the disk is full"):
        save_checkpoint(tmp_path, 200, groups(2.0), {})
    assert names(tmp_path) == ["step-00000100"]


LIMITED = """
import resource, sys
from pathlib import Path
import torch
from fcdm.engine.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from fcdm.errors import UserError
folder = Path(sys.argv[1])
small = {"model": {"a": torch.ones(100)}, "ema": {"a": torch.ones(100)}}
save_checkpoint(folder, 100, small, {})
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    save_checkpoint(folder, 200, {"model": {"a": torch.ones(100)}, "ema": {"a": torch.ones(1 << 20)}}, {})
except UserError as error:
    print(error)
def fail(message):
    raise AssertionError(message)
tensors, manifest = load_checkpoint(latest_checkpoint(folder, fail))
print(manifest["step"], sorted(p.name for p in folder.iterdir()))
"""


def test_a_real_file_size_limit(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told, after = done.stdout.splitlines()
    assert told.startswith(f"{tmp_path}/step-00000200: the file would be larger than is allowed while saving")
    assert after == "100 ['step-00000100']"


def test_other_mistakes_are_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for act in (
        lambda folder: save_checkpoint(folder, 1, groups(), {}),
        checkpoints,
        lambda folder: latest_checkpoint(folder, fail),
    ):
        with pytest.raises(UserError, match="file is a file, not a folder") as caught:
            act(tmp_path / "file" / "checkpoints")
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"complex64 cannot be stored"):
        save_checkpoint(tmp_path / "c", 1, {"model": {"z": torch.zeros(1, dtype=torch.complex64)}}, {})
    assert names(tmp_path / "c") == []


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("unpickled")

    path = save_checkpoint(tmp_path, 1, groups(), {})
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr("pickle.Unpickler", refuse)
    monkeypatch.setattr("pickle.loads", refuse)
    load_checkpoint(path)
