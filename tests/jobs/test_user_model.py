"""A user's own model: docs/bring_your_own.md as it stands, what makes a run another, one line for whatever is wrong."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fcdm.config.code_source import find_source
from fcdm.config.presets import load_preset
from fcdm.config.schema import Config, CustomConfig
from fcdm.cost.model_cost import model_cost
from fcdm.engine.state import TrainState
from fcdm.errors import UserError
from fcdm.jobs.make_jobs import make_jobs
from fcdm.models import build_model
from fcdm.models.measure import Question, measure
from fcdm.runs.identity import run_id, science
from fcdm.runs.kept_source import source_of, with_sources
from fcdm.runs.trials import custom_cost
from tests.support.commands import (
    TINY,
    Command,
    composed,
    environment,
    evaluations,
    kill_and_await,
    ranks_of,
    values,
    weights,
)
from tests.support.own_page import FILES, MODULE, commands, imports_from, write_page
from tests.support.slurm_lab import starts


@pytest.fixture(autouse=True)
def imports_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    with imports_from(tmp_path, monkeypatch):
        yield


# --- the page -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_page_runs_as_it_stands(fcdm: Command, tmp_path: Path) -> None:
    """All of its commands, with fewer steps and samples; then more steps of the same run, as one trained in one go."""
    assert len(MODULE.splitlines()) <= 30
    write_page(tmp_path)
    runs = tmp_path / "runs"
    said = {}
    for line in commands("A model"):
        python, dash_m, module, *words = line
        assert (python, dash_m) == ("python", "-m")
        small = [word if not word.startswith("steps=") else "steps=3" for word in words]
        before = sorted(runs.rglob("*"))
        done = fcdm(*small, *(TINY if module == "fcdm.train" else ()), module=module)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        if "hydra/launcher=plan" in words:
            assert sorted(runs.rglob("*")) == before, "a plan writes nothing"
        said[next((word for word in words if "launcher" in word), module)] = done.stdout

    module = built(16)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    # Convolutions by hand: kernel area x channels in x channels out x pixels out; Linears besides.
    convolutions = 64 * 9 * (1 * 16 + 16 * 16 + 16 * 2) + 16 * 16 * 16 * 32 + 16 * 9 * 32 * 32 + 16 * 16 * 32 * 16
    macs = convolutions + 2 * 16 + 16 * 16
    assert f"{parameters / 1e6:,.2f} M" in said["fcdm.cost"]
    found = {json.loads(path.read_text())["cost"]["parameters"]: path.parent for path in runs.glob("*/run.json")}
    assert len(found) == 2, "the sweep's width 16 is the run that was there"
    run = found[parameters]
    described = json.loads((run / "run.json").read_text())
    assert described["cost"]["forward_macs"] == macs
    assert described["family"] == "MyUNet"
    assert (run / "source" / "my_unet.py").read_text() == MODULE
    assert starts(run) == 1
    for folder in found.values():
        assert folder.name in said["hydra/launcher=local"]
        assert folder.name in said["fcdm.status"]
        (evaluated,) = evaluations(folder).values()
        assert math.isfinite(evaluated["metrics"]["fid"])  # type: ignore[index]
    assert said["hydra/launcher=plan"].count("my_unet") >= 2

    ours = ("--config-dir", ".", "model=my_unet", *TINY)
    more = fcdm(*ours, "steps=[3,6]")
    assert more.returncode == 0, more.stderr
    once = fcdm(*ours, "steps=[3,6]", "runs_dir=once")
    assert once.returncode == 0, once.stderr
    assert starts(run) == 2
    undisturbed = tmp_path / "once" / run.name
    assert weights(run, 6) == weights(undisturbed, 6), "dropout replays"
    assert values(run) == values(undisturbed)
    assert evaluations(run) == evaluations(undisturbed)

    (tmp_path / "my_unet.py").write_text(MODULE + "\n# better\n")
    other = fcdm(*ours, "steps=3")
    assert other.returncode == 0, other.stderr
    assert "another run" in other.stderr
    assert "my_unet.py (changed)" in other.stderr
    assert len(list(runs.glob("my_unet-*/run.json"))) == 3


@pytest.mark.slow
def test_its_weights_are_tuned_by_other_code_and_sampled_from_a_file(fcdm: Command, tmp_path: Path) -> None:
    write_page(tmp_path)
    words = ("--config-dir", ".", "model=my_unet", *TINY, "steps=2")
    assert fcdm(*words).returncode == 0
    (parent,) = (path.parent for path in (tmp_path / "runs").glob("*/run.json"))
    (tmp_path / "my_unet.py").write_text(MODULE + "\n# better\n")
    start = f"init_from={parent.name}@2"
    child = fcdm(*words, start, "model.options.dropout=0.2", "mlflow_uri=off")
    assert child.returncode == 0, child.stderr
    assert "was trained with other code of my_unet.MyUNet" in child.stderr
    other = fcdm(*words, start, "model.options.width=8")
    assert other.returncode == 1
    assert "shapes differ" in other.stderr

    shutil.copy(parent / "checkpoints" / "step-00000002" / "ema.safetensors", tmp_path / "mine.safetensors")
    asked = ("mine.safetensors", "model=my_unet", "resolution=8", "samples=4", "sampling_steps=2", "out=drawn")
    lost = fcdm(*asked, module="fcdm.sample")
    assert lost.returncode == 1
    nowhere = fcdm(*asked, "--config-dir", "nowhere", module="fcdm.sample")
    assert nowhere.returncode == 1
    assert "there is no such folder" in nowhere.stderr
    drawn = fcdm(*asked, "--config-dir", ".", module="fcdm.sample")
    assert drawn.returncode == 0, drawn.stderr
    assert (tmp_path / "drawn" / "samples.npz").is_file()


def test_a_constructor_that_never_ends_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.py").write_text("import time\ndef make(**keywords):\n    time.sleep(3600)\n")
    monkeypatch.setenv("FCDM_TRY_SECONDS", "0.5")
    model = CustomConfig(name="own", target="own.make")
    with pytest.raises(UserError, match=r"own.make: trying the model .* more than 0.5 s .*FCDM_TRY_SECONDS=<seconds>"):
        custom_cost(model, channels=1, side=8, classes=10, learn_sigma=True)


def test_a_command_that_is_killed_leaves_no_constructor_at_work(tmp_path: Path) -> None:
    """Nor what that has started."""
    (tmp_path / "own.py").write_text(
        "import subprocess\nfrom pathlib import Path\n"
        "def make(**keywords):\n    one = subprocess.Popen(['sleep', '600'])\n"
        "    Path('new').write_text(str(one.pid))\n    Path('new').rename('pid')\n    one.wait()\n"
    )
    code = (
        "from fcdm.config.schema import CustomConfig as C; from fcdm.runs.trials import custom_cost; "
        "custom_cost(C(name='own', target='own.make'), channels=1, side=8, classes=10, learn_sigma=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment()) as command:
        while not (tmp_path / "pid").exists():
            assert command.poll() is None
            time.sleep(0.02)
        kill_and_await(command, int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_slow_constructor_is_waited_for_and_said(
    rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """No process needs less than the patience that is set here: it imports torch first. The first one says it."""
    for name, value in ranks_of(2)[rank].items():
        monkeypatch.setenv(name, value)
    write_page(tmp_path)
    monkeypatch.setattr("fcdm.runs.trials.PATIENCE", 0.01)
    model = CustomConfig(name="my_unet", target="my_unet.MyUNet", options={"width": 16})
    assert custom_cost(model, channels=1, side=8, classes=10, learn_sigma=True).parameters
    told = "trying model.target=my_unet.MyUNet in a process of its own ...\n"
    assert capfd.readouterr().err == ("" if rank else told)


def built(width: int) -> torch.nn.Module:
    config = CustomConfig(name="my_unet", target="my_unet.MyUNet", options={"width": width, "dropout": 0.1})
    return build_model(config, channels=1, side=8, classes=10, learn_sigma=True)


@pytest.mark.slow
def test_a_job_whose_code_changed_is_refused(fcdm: Command, tmp_path: Path) -> None:
    """The job was frozen; then the file was edited."""
    write_page(tmp_path)
    (job,) = make_jobs([custom_run(tmp_path)])
    run = job.open()
    file = job.freeze()
    (tmp_path / "my_unet.py").write_text(MODULE.replace("dropout=0.0", "dropout=0.25"))
    done = fcdm(str(file), module="fcdm.job")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "my_unet.py (changed)" in line
    assert str(run.folder / "source") in line
    assert not (run.folder / "checkpoints").exists()


def custom_run(folder: Path, **options: Any) -> Config:
    config = composed("model=N", f"runs_dir={folder / 'runs'}", *TINY, "steps=4")
    model = CustomConfig(name="my_unet", target="my_unet.MyUNet", options={"width": 16, **options})
    return dataclasses.replace(config, model=model)


@pytest.mark.slow
def test_what_is_wrong_is_one_line_and_nothing_is_written(fcdm: Command, tmp_path: Path) -> None:
    write_page(tmp_path)
    words = ("--config-dir", ".", "model=my_unet")
    for arguments, said in {
        (*words, "model.target=my_umet.MyUNet"): "did you mean my_unet?",
        (*words, "model.options.widht=3"): "'+model.options.NAME=VALUE'",
        (*words, "model.options.width=nan"): "model.options.width=nan",
        ("-m", *words, "+model.options.widht=3,4"): "did you mean model.options.width?",
        ("--config-dir", ".", "model=my_unett"): "did you mean my_unet?",
    }.items():
        done = fcdm(*arguments)
        assert done.returncode == 1, arguments
        (line,) = done.stderr.splitlines()
        assert said in line
    assert not (tmp_path / "runs").exists()


# --- identity ------------------------------------------------------------------------------------------------------


def identity(config: Config) -> str:
    assert isinstance(config.model, CustomConfig)
    source_of.cache_clear()
    data = dataclasses.replace(config.data, checksum="0" * 64)
    return run_id(science(with_sources(dataclasses.replace(config, data=data))))


def test_code_and_options_are_the_run_and_places_and_spellings_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_page(tmp_path)
    config = custom_run(tmp_path)
    assert isinstance(config.model, CustomConfig)
    first = identity(config)

    def changed(**keys: Any) -> str:
        return identity(dataclasses.replace(config, model=dataclasses.replace(config.model, **keys)))

    assert changed(name="other", target="my_unet:MyUNet") == first
    assert changed(options={"width": 17}) != first
    assert changed(options={"width": 16, "nested": {}}) != first
    (tmp_path / "my_unet.py").write_text(MODULE + "# \n")
    assert identity(config) != first
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write_page(elsewhere)
    (tmp_path / "my_unet.py").unlink()
    monkeypatch.syspath_prepend(str(elsewhere))
    assert identity(config) == first


def test_a_packages_whole_folder_counts_and_so_do_others_that_it_imports(tmp_path: Path) -> None:
    lab = tmp_path / "my_lab"
    (lab / "deep").mkdir(parents=True)
    (lab / "__pycache__").mkdir()
    contents = {
        "my_lab/__init__.py": "",
        "my_lab/deep/__init__.py": "from .. import blocks\n",
        "my_lab/deep/net.py": "import torch, json\nfrom shapes.round import circle\nNet = torch.nn.Linear\n",
        "my_lab/blocks.py": "",
        "my_lab/sizes.json": "{}",
        "shapes/round.py": "def later():\n    import helper\ncircle = 1\n",
        "helper.py": "",
    }
    beside = {"my_lab/__pycache__/blocks.py": "", "my_lab/weights.pt": "", "shapes/square.py": "", "stranger.py": ""}
    for name, text in {**contents, **beside}.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    source = find_source("my_lab.deep.net.Net")
    assert set(source.files) == set(contents)
    assert (source.module, source.attribute) == ("my_lab.deep.net", "Net")
    for name in contents:
        before = find_source("my_lab.deep.net.Net").sha256
        with open(tmp_path / name, "a") as file:
            file.write("\n")
        assert find_source("my_lab.deep.net.Net").sha256 != before, name
    assert "my_lab" not in sys.modules, "nothing was imported"
    assert all("torch" not in name for name in source.files)


def test_linked_code_counts_and_what_only_fcdm_reads_or_writes_does_not(tmp_path: Path) -> None:
    lab, shared = tmp_path / "my_lab", tmp_path / "elsewhere" / "parts"
    shared.mkdir(parents=True)
    lab.mkdir()
    (lab / "__init__.py").write_text("class Net: ...")
    (shared / "__init__.py").write_text("")
    (shared / "conv.py").write_text("kernel = 7")
    (shared / "back").symlink_to(shared)
    (lab / "parts").symlink_to(shared)
    (lab / "round").symlink_to(lab)
    (lab / "images").symlink_to(tmp_path / "elsewhere")  # a folder of other things: not walked through
    source = find_source("my_lab.Net")
    assert set(source.files) == {"my_lab/__init__.py", "my_lab/parts/__init__.py", "my_lab/parts/conv.py"}
    for name in (
        "sweeps/wide.yaml",
        "conf/model/net.yaml",
        "out/net-1234/run.json",
        "out/studies/net.json",
        ".git/a.json",
    ):
        path = lab / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    assert find_source("my_lab.Net").sha256 == source.sha256
    (lab / "model").mkdir()
    for name in ("model/net.py", "model/sizes.yaml", "sweeps/sizes.json"):  # code and what it is told by
        before = find_source("my_lab.Net").sha256
        (lab / name).write_text("1")
        assert find_source("my_lab.Net").sha256 != before, name
    before = find_source("my_lab.Net").sha256
    (shared / "conv.py").write_text("kernel = 9")
    assert find_source("my_lab.Net").sha256 != before


@settings(max_examples=30)
@given(st.integers(1, 6), st.sets(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12), st.data())
def test_the_source_is_what_can_be_reached(count: int, edges: set[tuple[int, int]], data: st.DataObject) -> None:
    """Files that import each other in any way: those that the model's reaches, and no others."""
    edges = {(a, b) for a, b in edges if a < count and b < count}
    forms = ("import part_{0}", "from part_{0} import x", "def f():\n    import part_{0} as y", "import os, part_{0}")
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for number in range(count):
            lines = [data.draw(st.sampled_from(forms)).format(b) for a, b in sorted(edges) if a == number]
            (Path(folder) / f"part_{number}.py").write_text("\n".join(["x = 1", *lines, ""]))
        reached, todo = {0}, [0]
        while todo:
            at = todo.pop()
            for new in {b for a, b in edges if a == at} - reached:
                reached.add(new)
                todo.append(new)
        assert set(find_source("part_0.x").files) == {f"part_{number}.py" for number in reached}


def test_an_installed_model_counts_without_what_is_installed_beside_it() -> None:
    source = find_source("safetensors.torch.save_file")
    assert source.files
    assert all(name.startswith("safetensors/") for name in source.files)
    assert "safetensors/torch.py" in source.files


# --- cost ----------------------------------------------------------------------------------------------------------

WRAPPED = """
    from fcdm.config.presets import load_preset
    from fcdm.models import build_model

    def make(channels, out_channels, side, classes, preset, read=False):
        model = build_model(
            load_preset(preset), channels=channels, side=side, classes=classes, learn_sigma=out_channels > channels
        )
        if read:  # what meta cannot
            model.register_forward_pre_hook(lambda module, arguments: float(arguments[0].sum()) and None)
        return model
"""


def ask(text: str, options: dict[str, Any] | None = None, target: str = "own.Net", **more: Any) -> Question:
    Path("own.py").write_text(dedent(text))
    shape = {"channels": 1, "side": 8, "classes": 10, "learn_sigma": True}
    return Question(CustomConfig(name="own", target=target, options=options or {}), **{**shape, **more})


@pytest.mark.parametrize("preset", ["N", "dit/N-2"])
def test_counted_is_what_the_formulas_say_of_our_models(preset: str) -> None:
    cost = model_cost(load_preset(preset), channels=1, side=8, classes=10)
    found = measure(ask(WRAPPED, {"preset": preset}, "own.make"))
    assert found.device == "meta"
    assert (found.parameters, found.forward_macs) == (cost.parameters, cost.forward_macs)
    # Attention is counted with its matrix, which a fused kernel does not keep.
    assert cost.saved_elements <= found.saved_elements <= 1.06 * cost.saved_elements
    if preset == "N":
        assert found.saved_elements == pytest.approx(cost.saved_elements, rel=1e-3)


def test_a_model_that_meta_cannot_run_is_counted_alike_on_the_cpu() -> None:
    """Attention too, whose fused kernel on CPUs would count as nothing."""
    found = measure(ask(WRAPPED, {"preset": "dit/N-2", "read": True}, "own.make"))
    cost = model_cost(load_preset("dit/N-2"), channels=1, side=8, classes=10)
    assert found.device == "cpu"
    assert (found.parameters, found.forward_macs) == (cost.parameters, cost.forward_macs)


def test_a_table_kept_for_one_device_does_not_confuse_the_trial() -> None:
    """Modules may cache tensors: what meta left there must not meet the CPU's."""
    text = """
        from functools import cache
        import torch
        from torch import nn

        @cache
        def table(side):
            return torch.linspace(0, 1, side)

        class Net(nn.Module):
            def __init__(self, channels, out_channels, side, classes):
                super().__init__()
                self.conv = nn.Conv2d(channels, out_channels, 1)

            def forward(self, x, t, labels):
                return self.conv(x + table(x.shape[-1]))
    """
    assert measure(ask(text)).forward_macs == 64 * 2


# --- what is refused -----------------------------------------------------------------------------------------------

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, channels, out_channels, side, classes, width=4, **more):
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.table = nn.Embedding(classes + 1, out_channels)
        {init}

    def forward(self, x, t, labels):
        {forward}
        return out
"""
OUT = "out = self.conv(x) + self.table(labels)[:, :, None, None]"


def net(init: str = "pass", forward: str = OUT, signature: str = "width=4, **more") -> str:
    return NET.replace("{init}", init).replace("{forward}", forward).replace("width=4, **more", signature)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("class Net(:\n    pass\n", ("cannot be imported: SyntaxError", "own.py:1")),
        ("import torch\nimport nowhere_at_all\n", ("ModuleNotFoundError", "own.py:2")),
        ("raise SystemExit(3)\n", ("SystemExit: 3", "own.py:1")),
        ("class Nett:\n    pass\n", ("has no Net", "did you mean Nett?")),
        ("Net = 3\n", ("is a int",)),
        ("def Net(**keys):\n    return 3\n", ("gives a int, no torch.nn.Module",)),
        (net(signature="width=4").replace("side, ", ""), ("must take the keywords", "it takes no side")),
        (net(signature="width"), ("model.options.width has no value", "+model.options.width=")),
        (net("{}['missing']"), ("cannot be built: KeyError: 'missing'", "own.py:10")),
        (net("self.lazy = nn.LazyLinear(3)"), ("lazy.weight has no shape yet",)),
        (net("self.half()"), ("conv.weight is torch.float16",)),
        (net("self.requires_grad_(False)"), ("has no weights to train",)),
        (net("self.register_buffer('z', torch.zeros(2, dtype=torch.complex64))"), ("z is torch.complex64",)),
        (net("self.null_class = 0"), ("null_class is 0",)),
        (net("self.label_embedders = 0"), ("label_embedders is 0",)),
        (net(forward="out = self.missing(x)"), ("AttributeError", "own.py:13")),
        (net(forward="out = self.table(t)"), ("cannot be run: RuntimeError", "own.py:13")),
        (net(forward="out = self.conv(x)[:, :1]"), ("shape (1, 1, 8, 8)", "must be (1, 2, 8, 8)")),
        (net(forward="out = self.conv(x), 3"), ("gives a tuple",)),
        (net(forward="out = self.conv(x).int()"), ("gives torch.int32",)),
        (net(forward="out = self.conv(x)"), ("table.weight takes no part in the output",)),
        (
            net(forward=f"{OUT}.detach()").replace("None, None].detach()", "None, None]; out = out.detach()"),
            ("gradient",),
        ),
        (
            net("self.norm = nn.BatchNorm2d(2)", f"{OUT}; out = self.norm(out)"),
            ("the buffer norm.", "changes in training"),
        ),
        (net("self.table = nn.Embedding(classes, out_channels)"), ("has 10 rows", "classes + 1 = 11")),
        (net("self.me = lambda: 0; self.kept = self.conv.weight * 2", OUT), ("cannot be copied",)),
    ],
)
def test_what_cannot_be_trained_is_said_in_one_line(text: str, said: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        measure(ask(text))
    line = str(caught.value)
    assert "\n" not in line
    for words in said:
        assert words in line


def test_options_and_activation_checkpointing_go_to_the_constructor() -> None:
    measure(ask(net(signature="width=4, activation_checkpointing=False"), {"width": 8}, activation_checkpointing=True))
    with pytest.raises(UserError, match="activation_checkpointing=true: Net takes no keyword"):
        measure(ask(net(signature="width=4"), activation_checkpointing=True))
    with pytest.raises(UserError, match=r"model\.options\.widht: Net takes no such option; did you mean .*width"):
        measure(ask(net(signature="width=4"), {"widht": 8}))
    with pytest.raises(UserError, match=r"model\.options\.side cannot be set"):
        build_model(
            CustomConfig(name="own", target="own.Net", options={"side": 8}),
            channels=1,
            side=8,
            classes=10,
            learn_sigma=True,
        )


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("own", "say module.Class"),
        ("own.1x", "say module.Class"),
        ("nowhere_at_all.Net", "there is no module nowhere_at_all in the working directory"),
        ("package.missing.Net", "has no missing"),
        ("package.inner", "is a module: say which class of it"),
        ("fcdm.models.DiT", "fcdm's own"),
        ("math.sqrt", "no source file"),
    ],
)
def test_targets_that_are_none(target: str, said: str) -> None:
    Path("package").mkdir()
    Path("package/__init__.py").write_text("")
    Path("package/inner.py").write_text("")
    with pytest.raises(UserError, match=said):
        measure(ask("", target=target))


def test_weights_that_are_frozen_stay_and_a_resume_knows(tmp_path: Path) -> None:
    Path("own.py").write_text(net("self.conv.weight.requires_grad_(False)"))
    model = CustomConfig(name="own", target="own.Net")
    config = dataclasses.replace(composed("model=N"), model=model)
    state = TrainState.create(config, torch.device("cpu"))
    x, t, labels = torch.randn(3, 1, 8, 8), torch.arange(3), torch.tensor([0, 5, 10])
    state.model(x, t, labels).square().sum().backward()
    before = {name: parameter.detach().clone() for name, parameter in state.model.named_parameters()}
    state.optimiser.step()
    state.step = 1
    checkpoint = state.save(tmp_path / "checkpoints")
    again = TrainState.create(config, torch.device("cpu"))
    again.restore(checkpoint, config.power_ema)
    after = dict(again.model.named_parameters())
    assert torch.equal(after["conv.weight"], before["conv.weight"])
    assert not torch.equal(after["conv.bias"], before["conv.bias"])
    assert {parameter.shape for parameter in again.optimiser.state} == {after["conv.bias"].shape, (11, 2)}


def test_the_trial_leaves_no_trace_in_the_working_directory(tmp_path: Path) -> None:
    """But Python's own compiled files."""
    write_page(tmp_path)
    shutil.rmtree(tmp_path / "home", ignore_errors=True)
    measure(Question(CustomConfig(name="x", target="my_unet.MyUNet"), 1, 8, 10, True))
    written = {name.partition("/")[0] for name in FILES}
    assert {path.name for path in tmp_path.iterdir()} <= {*written, "__pycache__", ".hypothesis"}
