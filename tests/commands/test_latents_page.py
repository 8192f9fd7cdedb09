"""docs/latents.md: its commands, as they are written, on latents of the shapes that it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from fcdm.data.channels import CHANNELS
from fcdm.data.latents import LatentsStore
from fcdm.prepare import main
from tests.support.commands import ROOT, Command
from tests.support.latents_of_others import write_files, write_zarr


def commands() -> list[list[str]]:
    text = (ROOT / "docs/latents.md").read_text()
    lines = "\n".join(re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)).splitlines()
    return [shlex.split(line, comments=True) for line in lines if line]


def test_the_commands_of_the_page(fcdm: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).standard_normal((30, 4, 32, 32)).astype(np.float32)
    labels = np.arange(30) % 4
    write_files("features", values)
    write_zarr("imagenet.zarr", values, 3)
    np.savez("latents.npz", arr_0=values / 0.18215, arr_1=labels)
    Path("train").mkdir()
    np.save("train/latents.npy", np.concatenate([values, np.abs(values)], axis=1))
    np.save("train/labels.npy", labels)
    asked = commands()
    assert len(asked) == 6
    for words in asked:
        assert words[:2] == ["python", "-m"]
        if words[3] == "channels":
            Path("data/imagenet-256", CHANNELS).unlink()
        if words[2] == "fcdm.prepare":
            assert main(words[3:]) == 0, words
        else:
            done = fcdm(*words[3:], module=words[2])
            assert done.returncode == 0, done.stderr
            assert "data.normalisation=channel" in done.stdout
    for name in ("imagenet", "zarr", "npz"):
        found, _ = LatentsStore(f"data/{name}-256").batch(np.arange(30), latents="frozen")
        np.testing.assert_allclose(found.numpy(), values, rtol=1e-6)
    assert Path("data/imagenet-256", CHANNELS).exists()
