"""Users' own data sets, objectives, optimisers, extractors and conditions: docs/bring_your_own.md as it stands, what is
another run or evaluation, and one line for whatever is wrong. (Models: `test_user_model.py`.)"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fcdm.atomic import plain
from fcdm.config.schema import Config, CustomConfig
from fcdm.config.user_code import FEATURES, SCIENCE, codes_of
from fcdm.data.dataset import PixelDataset, data_checksum, open_dataset
from fcdm.data.user_data import images_of
from fcdm.data.user_store import UserStore
from fcdm.diffusion import make_objective
from fcdm.diffusion.guidance import Guided
from fcdm.engine.batches import BatchSource
from fcdm.engine.distributed import Ranks
from fcdm.engine.model_conditions import OfSamples
from fcdm.engine.optimisers import pack, unpacked
from fcdm.engine.state import TrainState
from fcdm.engine.streamed_metrics import open_measure
from fcdm.engine.try_code import answer
from fcdm.engine.worker import Worker
from fcdm.errors import UserError
from fcdm.features.space import asked_space
from fcdm.jobs.make_jobs import make_jobs
from fcdm.metrics.rounding import to_uint8
from fcdm.models.measure import Question, measure
from fcdm.runs.identity import run_id, science
from fcdm.runs.kept_source import SOURCE, keep_extractor, news_of_source, source_of, with_sources
from fcdm.runs.protocol import Part
from fcdm.runs.trials import try_codes
from fcdm.sweep.each_space import in_each_space
from fcdm.sweep.sampling_config import DRAWING, take_apart
from tests.support.commands import TINY, Command, composed, evaluations, only_run, values, weights
from tests.support.own_page import FILES, commands, imports_from, write_page
from tests.support.silent import Silent
from tests.support.slurm_lab import starts


@pytest.fixture(autouse=True)
def imports_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    with imports_from(tmp_path, monkeypatch):
        yield


# --- the page -----------------------------------------------------------------------------------------------------

CPU = torch.device("cpu")


def test_everything_takes_under_thirty_lines() -> None:
    assert {name: len(text.splitlines()) for name, text in FILES.items() if len(text.splitlines()) > 30} == {}


def small(words: list[str], steps: str) -> list[str]:
    assert words[:3] == ["python", "-m", "fcdm.train"]
    kept = [word for word in words[3:] if not word.startswith("steps=")]
    return [*kept, *TINY, f"steps={steps}"]


@pytest.mark.slow
@pytest.mark.parametrize("section", ["A data set", "An objective", "An optimiser"])
def test_the_page_runs_as_it_stands(fcdm: Command, tmp_path: Path, section: str) -> None:
    """Its command, with fewer steps and samples."""
    write_page(tmp_path)
    (words,) = commands(section)
    done = fcdm(*small(words, "2"))
    assert done.returncode == 0, done.stdout + done.stderr
    run = only_run(tmp_path / "runs")
    (evaluated,) = evaluations(run).values()
    # 20 samples are too few for a Fréchet distance of 27 features.
    told = "kid" if section == "A data set" else "fid"
    assert math.isfinite(evaluated["metrics"][told])  # type: ignore[index]
    kept = {path.relative_to(run / SOURCE).as_posix() for path in (run / SOURCE).rglob("*.py")}
    if section == "A data set":
        (extractor,) = kept - {"my_data.py"}
        assert Path(extractor).name == "my_features.py"
        assert Path(extractor).parent.name.startswith("features-")
        assert evaluated["protocol"]["features"].startswith("my_features.Edges@")  # type: ignore[index]
    else:
        assert kept == {"my_objective.py" if section == "An objective" else "my_optimiser.py"}


@pytest.mark.slow
def test_all_of_them_together_stop_and_go_on_bit_for_bit(fcdm: Command, tmp_path: Path) -> None:
    """The page's command with conditions, beside its objective and its optimiser; then as one trained in one go."""
    write_page(tmp_path)
    (words,) = commands("What else the model is given")
    more = (
        "objective=trig",
        "optimiser.target=my_optimiser.Lion",
        "optimiser.lr=1e-3",
        "evaluation.guidance_scale=1.5",
    )
    first = fcdm(*small(words, "2"), *more)
    assert first.returncode == 0, first.stdout + first.stderr
    run = only_run(tmp_path / "runs")
    assert fcdm(*small(words, "[2,4]"), *more).returncode == 0
    assert starts(run) == 2
    once = fcdm(*small(words, "[2,4]"), *more, "runs_dir=once")
    assert once.returncode == 0, once.stderr
    undisturbed = tmp_path / "once" / run.name
    assert weights(run, 4) == weights(undisturbed, 4)
    assert values(run) == values(undisturbed)
    assert evaluations(run) == evaluations(undisturbed)
    kept = {path.name for path in (run / SOURCE).glob("*.py")}
    assert kept == {"my_sized.py", "my_unet.py", "my_data.py", "my_objective.py", "my_optimiser.py"}

    drawn = fcdm(run.name, "samples=4", "sampler=rotate", "sampling_steps=2", "out=drawn", module="fcdm.sample")
    assert drawn.returncode == 0, drawn.stderr
    assert (tmp_path / "drawn" / "samples.npz").is_file()
    unsaid = fcdm(run.name, "samples=4", "out=others", module="fcdm.sample")
    assert unsaid.returncode == 1
    assert "write rotate" in unsaid.stderr


@pytest.mark.parametrize(("reference", "channels"), [(None, 1), ("real", 3)])
def test_an_extractor_is_tried_on_the_images_that_it_will_see(
    reference: str | None, channels: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Grey samples are compared with a reference in RGB."""
    write_page(tmp_path)
    config = own()
    data = dataclasses.replace(config.data, channels=1)
    config = changed(dataclasses.replace(config, data=data), "evaluation", reference=reference)
    monkeypatch.setattr("fcdm.runs.trials._find", lambda questions: found.extend(questions))
    found: list[Any] = []
    try_codes([config])
    (tried,) = [json.loads(one.text)["facts"] for one in found if one.code.kind is FEATURES]
    assert tried == {"channels": channels, "side": config.resolution}
    assert asked_space(config).channels == channels


# --- what is another run, and what another evaluation --------------------------------------------------------------


def own(**keys: Any) -> Config:
    """A configuration with all five kinds of the page."""
    config = composed("model=N", *TINY, "steps=4", "resolution=16")
    source = {"target": None, "options": {}, "source": None}
    data = dataclasses.replace(
        config.data, **{**source, "name": "shapes", "target": "my_data.shapes", "options": {"count": 40, "held": 20}}
    )
    data = dataclasses.replace(data, channels=3, classes=2, flip="none")
    diffusion = dataclasses.replace(
        config.diffusion, **{**source, "objective": "custom", "target": "my_objective.Trig"}, learn_sigma=False
    )
    optimiser = dataclasses.replace(config.optimiser, **{**source, "target": "my_optimiser.Lion"}, lr=1e-3)
    evaluation = dataclasses.replace(config.evaluation, features="my_features.Edges", sampler="rotate")
    config = dataclasses.replace(
        config, data=data, diffusion=diffusion, optimiser=optimiser, evaluation=evaluation, runs_dir="runs"
    )
    return dataclasses.replace(config, **keys)


def ids(config: Config) -> tuple[str, str]:
    """The run's and the protocol's, as a command finds them, without trying the code."""
    source_of.cache_clear()
    config = with_sources(config)
    data = dataclasses.replace(config.data, checksum=data_checksum(config.data, config.resolution))
    config = dataclasses.replace(config, data=data)
    return run_id(science(config)), Part(config).protocol_id


def changed(config: Config, section: str, **keys: Any) -> Config:
    return dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **keys)})


def test_code_and_options_are_the_run_or_the_evaluation(tmp_path: Path) -> None:
    write_page(tmp_path)
    first = run, protocol = ids(own())
    for kind in SCIENCE[1:]:
        options = {"data": {"count": 41, "held": 20}, "diffusion": {"power": 1.5}, "optimiser": {"beta1": 0.8}}
        other = ids(changed(own(), kind.section, options=options[kind.section]))
        assert other[0] != run, kind
    other = ids(changed(own(), "evaluation", features_options={"cells": 2}))
    assert (other[0], other[1] != protocol) == (run, True)
    for name, kind in (("my_data", "run"), ("my_objective", "run"), ("my_optimiser", "run"), ("my_features", "")):
        file = tmp_path / f"{name}.py"
        text = file.read_text()
        file.write_text(f"{text}# other\n")
        now = ids(own())
        assert (now[0] != run, now[1] != protocol or kind == "run") == (kind == "run", True), name
        file.write_text(text)
    assert ids(own()) == first


def test_news_are_of_code_that_changed_and_not_of_other_code(tmp_path: Path) -> None:
    """A run with one's own optimiser is no later version of one with an objective, though both are of one name."""
    write_page(tmp_path)
    before, now = tmp_path / "runs" / "N-shapes-16px-11111111", tmp_path / "runs" / "N-shapes-16px-22222222"
    plain_one = composed("model=N", *TINY, "steps=4", "resolution=16")
    lion = changed(plain_one, "optimiser", target="my_optimiser.Lion", options={}, source=None)
    (before / SOURCE).mkdir(parents=True)
    (before / SOURCE / "my_objective.py").write_text((tmp_path / "my_objective.py").read_text())
    assert news_of_source(lion, now) is None
    (before / SOURCE / "my_optimiser.py").write_text("# as it was\n")
    source_of.cache_clear()
    assert str(news_of_source(lion, now)).startswith(f"{now.name} is another run than {before.name}: my_o")


def test_the_datas_identity_is_known_without_running_it(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("raise RuntimeError('run')\ndef make(): ...\n")
    config = changed(own(), "data", target="own.make", options={})
    assert len(data_checksum(config.data, 16)) == 64


def test_an_extractor_that_changed_costs_its_evaluation_and_no_training(tmp_path: Path) -> None:
    from fcdm.features.user_extractor import changed_extractor

    write_page(tmp_path)
    (job,) = make_jobs([own()])
    config, protocol = job.config, job.parts[0].protocol
    assert changed_extractor(config, protocol) is None
    (tmp_path / "my_features.py").write_text(FILES["my_features.py"] + "# other\n")
    assert "another evaluation" in str(changed_extractor(config, protocol))
    assert Part(config).protocol == protocol, "what was asked for is what the job says"


def test_an_extractors_copy_is_whole_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_page(tmp_path)
    config = with_sources(changed(own(), "evaluation", features="my_features.Edges"))

    def dying(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            keep_extractor(config, tmp_path)
    assert not list((tmp_path / SOURCE).rglob("*.py"))
    keep_extractor(config, tmp_path)
    (kept,) = (tmp_path / SOURCE).rglob("*.py")
    assert kept.read_text() == FILES["my_features.py"]


@pytest.mark.slow
def test_a_job_whose_data_or_optimiser_changed_is_refused(fcdm: Command, tmp_path: Path) -> None:
    write_page(tmp_path)
    (job,) = make_jobs([own()])
    run = job.open()
    file = job.freeze()
    (tmp_path / "my_data.py").write_text(FILES["my_data.py"] + "# other\n")
    done = fcdm(str(file), module="fcdm.job")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "data.target=my_data.shapes has changed" in line
    assert "my_data.py (changed)" in line
    assert not (run.folder / "checkpoints").exists()


def test_codes_are_frozen_for_slurm(tmp_path: Path) -> None:
    """All that a job needs stands beside the package, and imports there alone."""
    from fcdm.slurm.code_snapshot import take_snapshot

    write_page(tmp_path)
    config = with_sources(own())
    folder = take_snapshot(tmp_path / "runs", list(codes_of(config)))
    for name in ("my_data.py", "my_objective.py", "my_optimiser.py", "my_features.py"):
        assert (folder / name).read_text() == FILES[name]


# --- what is refused, before anything starts -----------------------------------------------------------------------

FACTS: dict[str, dict[str, Any]] = {
    "data": {"channels": 1, "side": 8, "classes": 3, "conditions": {}},
    "diffusion": {"channels": 1, "side": 8, "learn_sigma": False, "sampler": "mine", "steps": 3},
    "optimiser": {"lr": 0.1},
    "evaluation": {"channels": 1, "side": 8},
}


def error(kind: str, text: str, options: dict[str, Any] | None = None, target: str = "own.make", **facts: Any) -> str:
    """What the trial says of this module, or nothing."""
    Path("own.py").write_text(dedent(text))
    asked = {"kind": kind, "target": target, "options": options or {}, "source": None}
    line = str(answer({**asked, "facts": {**FACTS[kind], **facts}}).get("error", ""))
    assert "\n" not in line
    return line


DATA = """
import torch
def make(**more):
    found = {{
        "images": torch.zeros(6, 1, 8, 8), "labels": torch.arange(6) % 3,
        "heldout_images": torch.zeros(2, 1, 8, 8), "heldout_labels": torch.tensor([0, 1]),
    }}
    {change}
    return found
"""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("pass", ""),
        ("found['images'] = (found['images'] + 1).byte().numpy()", ""),
        (
            "found['images'] = found['images'][:, :, :4]",
            "images has shape (6, 1, 4, 8); data.channels=1 and resolution=8",
        ),
        ("found['images'] = found['images'].double()", "images is torch.float64: uint8, or float32 from -1 to 1"),
        ("found['images'] = found['images'] + 2", "images goes from 2 to 2: float32 goes from -1 to 1"),
        ("found['images'][0, 0, 0, 0] = float('nan')", "images goes from nan to nan"),
        ("found['images'] = [1]", "images is a list"),
        ("del found['images']", "images is none"),
        ("found['labels'] = found['labels'] + 1", "labels has the label 3: data.classes=3 allows 0 to 2"),
        ("found['heldout_labels'] = found['heldout_labels'] - 1", "heldout_labels has the label -1"),
        ("found['labels'] = found['labels'].float()", "labels is torch.float32 of shape (6,): whole numbers"),
        ("del found['labels']", "gives no labels: data without labels is of one class, data.classes=1"),
        ("found['heldout_images'] = found['heldout_images'][:0]", "heldout_images is empty: samples are compared"),
        ("found['validation'] = 3", "gives validation, which nothing reads"),
        ("found['conditions'] = {'size': torch.zeros(6)}", "conditions has size; data.conditions says none"),
        ("found['images'].uniform_(generator=torch.Generator().manual_seed(torch.seed() % 99999))", "each time"),
        ("found['images'].uniform_()", ""),
        ("found = found['nothing']", "cannot be built: KeyError: "),
    ],
)
def test_data_that_cannot_be_trained_on(change: str, said: str) -> None:
    line = error("data", DATA.format(change=change))
    assert said in line
    assert bool(said) == bool(line), line
    assert "Error: " not in said or "own.py:" in line
    assert not line or line.startswith("data.target=own.make")


def test_data_may_be_an_object_without_labels() -> None:
    text = """
        import numpy as np
        class Grey:
            def __init__(self, side):
                self.images = np.zeros((4, 1, side, side), np.uint8)
            @property
            def heldout_images(self):
                return self.images[:2]
    """
    assert error("data", text, target="own.Grey", classes=1) == ""
    assert "gives no labels" in error("data", text, target="own.Grey")
    assert "took no such option" not in error("data", text, {"size": 3}, target="own.Grey")
    assert "data.options.size: Grey takes no such option; it takes none" in error(
        "data", text, {"size": 3}, target="own.Grey", classes=1
    )
    assert "there is no module nowhere" in error("data", "", target="nowhere.Data")


OBJECTIVE = """
import torch
from fcdm.diffusion.flow import FlowMatching
from fcdm.diffusion.objective import Loss, Solution

class make(FlowMatching):
    samplers = ("mine",)
    def sample(self, denoise, start, noise, settings, on_step=None):
        x = start
        for left in reversed(range(settings.steps)):
            x = x + denoise(x, torch.full((len(x),), 1 - left / settings.steps)) + 0.01 * noise(left)
        return Solution(x, torch.full((len(x),), settings.steps))
    {change}
"""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("pass", ""),
        ("loss = None", "has no loss: an objective has samplers, times,"),
        ("samplers = 'mine'", "samplers is 'mine': a tuple of the names"),
        ("samplers = ('other',)", "evaluation.sampler=mine is none of diffusion.target=own.make: write other"),
        ("times = 3", "times is 3: Uniform("),
        ("def corrupt(self, x0, t, noise): return x0[:, 0]", "corrupt gives shape (3, 8, 8); it must be"),
        ("def corrupt(self, x0, t, noise): return x0 / 0", "corrupt gives numbers that are not finite"),
        ("def target(self, x0, noise, t): return missing", ".target() cannot be run: NameError: "),
        ("def loss(self, o, x0, x_t, t, n): l = (o - x0).square().mean(); return Loss(l, l, None)", "of shape (3,)"),
        (
            "def loss(self, o, x0, x_t, t, n): l = (o - o.mean(0)).square().mean((1, 2, 3)); return Loss(l, l, None)",
            "an image's loss depends on the others of its batch",
        ),
        (
            "def loss(self, o, x0, x_t, t, n): l = x0.mean((1, 2, 3)); return Loss(l, l, None)",
            "does not depend on the model's output by any gradient",
        ),
        ("def diffusion_time(self, t): return 2 * t.double()", "0 for data to 1 for noise"),
        ("def times_in_bin(self, number, bins, u): return (number + u) / bins", "must go from data (bin 0) to noise"),
        ("def sample(self, denoise, start, *more): return Solution(denoise(start, 1.0), 3)", "cannot be run"),
        (
            "def sample(self, denoise, x, *more): return Solution(x - x.mean(0), torch.ones(len(x)))",
            "others of its batch",
        ),
        ("def sample(self, denoise, start, *more): return start", "its field `nfe`"),
    ],
)
def test_objectives_that_cannot_be(change: str, said: str) -> None:
    line = error("diffusion", OBJECTIVE.format(change=change))
    assert said in line
    assert bool(said) == bool(line), line
    assert "Error: " not in said or "own.py:" in line


OPTIMISER = """
import torch
class make(torch.optim.Optimizer):
    def __init__(self, weights, lr, momentum=0.5):
        super().__init__(weights, {{"lr": lr}})
        self.momentum, self.hidden = momentum, {{}}
    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                {change}
                weight.sub_(group["lr"] * weight.grad)
"""
HIDDEN = "self.hidden[weight] = self.hidden.get(weight, 0) * 0.9 + weight.grad; weight.sub_(self.hidden[weight])"
KEPT = "state['sum'] = [state.get('sum', [0])[0] * 0.9 + weight.grad.double(), 3]; weight.sub_(state['sum'][0].float())"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("pass", ""),
        (KEPT, ""),
        ("group['turns'] = group.get('turns', 0.1) * 1.7; weight.mul_(1 - group['turns'] / 100)", ""),
        (HIDDEN, "a resume would not be bit for bit"),
        ("state['what'] = object()", "state.0.what is a object, which a checkpoint cannot hold"),
        ("weight.grad.fill_(float('nan'))", "makes weights that are not finite at optimiser.lr=0.1"),
        ("weight.grad.zero_()", "does not move a weight of shape"),
        ("1 / 0", "cannot make a step: ZeroDivisionError: "),
    ],
)
def test_optimisers_that_cannot_train(change: str, said: str) -> None:
    line = error("optimiser", OPTIMISER.format(change=change))
    assert said in line
    assert bool(said) == bool(line), line
    assert "Error: " not in said or "own.py:" in line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def make(weights, lr): return 3", "gives a int, no torch.optim.Optimizer"),
        ("import torch\ndef make(weights, lr): return torch.optim.SGD(weights[1:], lr)", "takes 6 of the 7 weights"),
        ("import torch\ndef make(weights): return torch.optim.SGD(weights, 1)", "must take the keyword lr"),
        ("import torch\ndef make(weights, lr): return torch.optim.LBFGS(weights, lr)", "cannot make a step: TypeError"),
        ("import torch\ndef make(weights, lr): return torch.optim.SGD(weights, -lr)", "cannot be built: ValueError"),
    ],
)
def test_what_is_no_optimiser(text: str, said: str) -> None:
    assert said in error("optimiser", text)


def test_an_optimiser_refuses_an_option_by_name() -> None:
    line = error("optimiser", OPTIMISER.format(change="pass"), {"momentun": 0.9})
    assert "optimiser.options.momentun: make takes no such option; did you mean optimiser.options.momentum?" in line


@pytest.mark.parametrize("name", ["SGD", "Adam", "RMSprop", "Adagrad", "NAdam", "Adafactor"])
def test_torchs_own_go_on_bit_for_bit(name: str) -> None:
    assert error("optimiser", f"import torch\ndef make(weights, lr): return torch.optim.{name}(weights, lr=lr)") == ""


EXTRACTOR = """
import torch
class make(torch.nn.Module):
    def __init__(self, size=3):
        super().__init__()
        self.linear = torch.nn.Linear(64, size)
    def forward(self, images):
        found = self.linear(images.flatten(1).float())
        {change}
        return found
"""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("pass", ""),
        ("found = found.numpy()", ""),
        ("found[0, 0] = float('nan')", "gives features that are not finite numbers"),
        ("found = found[:, :1 + (len(images) == 1)]", "gives 2 features, and 1 before"),
        ("found = found.sum(1)", "gives shape (2,) for 2 images"),
        ("found = found - found.mean(0)", "depend on the others of its batch"),
        ("images.fill_(0)", "changes the images"),
        ("found = self.missing(found)", "cannot be run: AttributeError: "),
        ("found = 3", "gives a int for 2 images"),
    ],
)
def test_extractors_that_cannot_compare(change: str, said: str) -> None:
    line = error("evaluation", EXTRACTOR.format(change=change))
    assert said in line
    assert bool(said) == bool(line), line
    assert "Error: " not in said or "own.py:" in line
    assert not line or line.startswith("evaluation.features=own.make")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("optimiser.target=lion",), "names no optimiser: say module.Class, such as my_optimiser.Lion"),
        (("optimiser.target=torch.optim.SGD", "+optimiser.options.lr=3"), "optimiser.options.lr cannot be set"),
        (("+optimiser.options.momentum=0.9",), "no effect without an optimiser"),
        (("+evaluation.features_options.size=3",), "no effect without a feature extractor"),
        (("diffusion.target=my.Trig",), "say objective=custom too"),
        (("objective=custom",), "say which, diffusion.target=my_objective.Cosine"),
        (("data.target=my.shapes",), "bundled digits' name"),
        (("data.target=my.shapes", "data.name=shapes", "data.path=there", "data.downsample=1"), "two data sets"),
        (("data.target=fcdm.data.Digits", "data.name=shapes"), "fcdm's own"),
        (("+data.conditions.size=[1]",), "only a data set of your own gives conditions"),
        (
            ("data.target=my.shapes", "data.name=own", "+data.conditions.size=[1]", "evaluation.features=pixels"),
            "model=N takes no conditions",
        ),
        (
            ("data.target=my.shapes", "data.name=own", "evaluation.features=classifier"),
            "a data set of your own has none",
        ),
    ],
)
def test_what_does_not_go_together(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError) as refused:
        composed("model=N", *words)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_options_of_an_own_extractor_are_left_out_at_spaces_of_ours() -> None:
    words = ["model=N", "+evaluation.features_options.cells=2", "evaluation.features=[my.Edges,pixels]"]
    edges, pixels = in_each_space(words, ["my.Edges", "pixels"])
    assert "+evaluation.features_options.cells=2" in edges
    assert "+evaluation.features_options.cells=2" not in pixels


def test_options_of_an_own_extractor_are_said_to_fcdm_evaluate_too() -> None:
    said = ["run", "features=my.Edges", "features_options.cells=2"]
    assert "++evaluation.features_options.cells=2" in take_apart(said, (), (), "").overrides
    with pytest.raises(UserError, match=r"features_options.cells has no effect on samples"):
        take_apart(said, (), (), "samples", DRAWING[1:])


def test_another_dinov2_means_nothing_to_samples_that_are_only_drawn() -> None:
    with pytest.raises(UserError, match=r"dinov2 has no effect on samples: leave dinov2=foo/bar away"):
        take_apart(["run", "dinov2=foo/bar"], (), (), "samples", DRAWING)


def test_a_secret_is_no_option_of_anything() -> None:
    with pytest.raises(UserError, match=r"optimiser.options.token looks like a secret, and an optimiser's options"):
        composed("model=N", "optimiser.target=my.Lion", "+optimiser.options.token=hf_abcdefghijklmnopqrstuvwxyz")


# --- methods of a model that nothing would call --------------------------------------------------------------------

NET = """
import torch
class Net(torch.nn.Module):
    def __init__(self, channels, out_channels, side, classes):
        super().__init__()
        self.conv = torch.nn.Conv2d(channels, out_channels, 1)
    def forward(self, x, t, labels{more}):
        return self.conv(x)
    def {method}(self):
        pass
"""


@pytest.mark.parametrize(
    ("method", "instead"),
    [
        ("loss", "diffusion.target"),
        ("training_step", "diffusion.target"),
        ("configure_optimizers", "optimiser.target"),
        ("sample", "diffusion.target"),
        ("train_dataloader", "data.target"),
    ],
)
def test_a_method_that_nothing_calls_is_refused(method: str, instead: str) -> None:
    Path("own.py").write_text(NET.format(method=method, more=""))
    with pytest.raises(UserError, match=rf"nothing would call Net.{method}: .*{instead}.*call it _{method}") as refused:
        measure(Question(CustomConfig(name="own", target="own.Net"), 1, 8, 10, False))
    assert "\n" not in str(refused.value)
    Path("own.py").write_text(NET.format(method=f"_{method}", more=""))
    del sys.modules["own"]
    assert measure(Question(CustomConfig(name="own", target="own.Net"), 1, 8, 10, False)).forward_macs == 64


# --- conditions ----------------------------------------------------------------------------------------------------


def conditioned(**keys: Any) -> Config:
    config = changed(own(), "data", options={"count": 40, "held": 20, "sizes": True}, conditions={"size": [1]})
    model = CustomConfig(name="my_sized", target="my_sized.Sized", options={"width": 8})
    return with_sources(dataclasses.replace(config, model=model, **keys))


def test_a_model_that_takes_no_such_condition_is_refused() -> None:
    Path("own.py").write_text(NET.format(method="_more", more=", size"))
    model = CustomConfig(name="own", target="own.Net")
    with pytest.raises(UserError, match=r"forward takes no keyword depth, which data.conditions gives"):
        measure(Question(model, 1, 8, 10, False, conditions={"depth": [1]}))
    assert measure(Question(model, 1, 8, 10, False, conditions={"size": [1]})).forward_macs == 64


def test_images_come_with_their_own_conditions_in_training_and_held_out(tmp_path: Path) -> None:
    write_page(tmp_path)
    config = conditioned()
    data = open_dataset(config, CPU)
    source = BatchSource(config, data, make_objective(config.diffusion), 1, 0, 16)
    batch = source.draw(0)
    places = source.order.items(0, 16)
    x0, _ = data.finish(torch.from_numpy(places), [])
    assert torch.equal(batch.x0, x0)
    # The page's radius, in shares of the side, is what was drawn: larger shapes have more pixels that are not black.
    area = (batch.x0 > -1).any(1).float().mean((1, 2))
    size = batch.conditions["size"][:, 0]
    assert float(torch.corrcoef(torch.stack([area.sqrt(), size]))[0, 1]) > 0.9
    parts = batch.split(7)
    assert torch.equal(torch.cat([part.conditions["size"] for part in parts]), batch.conditions["size"])


def test_samples_are_compared_with_the_images_as_bytes_whatever_made_them(tmp_path: Path) -> None:
    """Trained on first, then held out; what is kept of them goes by what is in them, not by code."""
    write_page(tmp_path)
    store = UserStore(with_sources(own()))
    train, heldout = images_of(with_sources(own()))
    assert np.array_equal(store.read(store.train_indices), train.images.numpy())
    assert np.array_equal(store.read(store.heldout_indices), heldout.images.numpy())
    text = FILES["my_data.py"].replace(".astype(np.uint8)", ".astype(np.float32) / 127.5 - 1")
    (tmp_path / "as_floats.py").write_text(text)
    config = changed(own(), "data", target="as_floats.shapes")
    assert UserStore(with_sources(config)).checksum == store.checksum
    assert UserStore(with_sources(dataclasses.replace(own(), resolution=8))).checksum != store.checksum


def test_a_sample_is_conditioned_on_one_held_out_image_by_its_number_alone(tmp_path: Path) -> None:
    write_page(tmp_path)
    config = conditioned()
    given = OfSamples(config, CPU, None)
    numbers = torch.arange(50)
    sizes, labels = given.conditions(numbers)["size"], given.labels(numbers)
    some = torch.tensor([30, 3, 17])
    assert torch.equal(given.conditions(some)["size"], sizes[some])
    pairs = set(zip(given.data.held.conditions["size"][:, 0].tolist(), given.data.held.labels.tolist(), strict=True))
    assert set(zip(sizes[:, 0].tolist(), labels.tolist(), strict=True)) <= pairs
    ones = OfSamples(config, CPU, 1)
    assert set(ones.labels(numbers).tolist()) == {1}
    balanced = OfSamples(changed(config, "evaluation", labels="balanced"), CPU, None)
    assert torch.equal(balanced.labels(torch.arange(20)), given.data.held.labels)
    other = OfSamples(changed(config, "evaluation", seed=5, labels="uniform"), CPU, None)
    uniform = OfSamples(changed(config, "evaluation", labels="uniform"), CPU, None)
    assert not torch.equal(other.conditions(numbers)["size"], uniform.conditions(numbers)["size"])


def test_guidance_leaves_conditions_and_leads_towards_the_label() -> None:
    def model(x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
        return x * 0 + labels[:, None, None, None] + 10 * size[:, :, None, None]

    labels, size = torch.tensor([0, 1, 2]), torch.tensor([[1.0], [2.0], [3.0]])
    x, t = torch.zeros(3, 1, 2, 2), torch.tensor([0.0, 0.5, 1.0])
    guided = Guided(model, labels, 4, 2.0, conditions={"size": size})
    assert guided(x, t)[:, 0, 0, 0].tolist() == [10 - 4, 20 - 2, 30 + 0]  # 2 label - 4
    part = Guided(model, labels, 4, 2.0, interval=(0.4, 0.6), time=lambda t: t, conditions={"size": size})
    assert part(x, t)[:, 0, 0, 0].tolist() == [10, 18, 32]
    weak = Guided(model, labels, 4, 3.0, weak=lambda *given, size: size[:, :, None, None], conditions={"size": size})
    assert weak(x, t)[:, 0, 0, 0].tolist() == [1 + 3 * 9, 2 + 3 * 19, 3 + 3 * 29]


# --- checkpoints ---------------------------------------------------------------------------------------------------


def test_adamws_checkpoints_are_as_they_were(tmp_path: Path) -> None:
    """Two moments for each weight and the sum of losses; nothing of the optimiser in the manifest."""
    config = composed("model=N")
    state = TrainState.create(config, CPU)
    for weight in state.weights:
        weight.grad = torch.ones_like(weight)
    state.optimiser.step()
    state.step = 1
    groups, extra = state.contents()
    names = [name for name, _ in state.model.named_parameters()]
    assert set(groups["optimiser"]) == {"loss_sum"} | {f"{n}.{m}" for n in names for m in ("exp_avg", "exp_avg_sq")}
    assert "optimiser" not in extra


def test_an_own_optimiser_is_in_the_checkpoint_and_warms_up(tmp_path: Path) -> None:
    write_page(tmp_path)
    config = with_sources(changed(composed("model=N"), "optimiser", target="my_optimiser.Lion", options={"beta1": 0.8}))
    state = TrainState.create(config, CPU)
    assert state.rates == [config.optimiser.lr]
    for weight in state.weights:
        weight.grad = torch.randn_like(weight)
    state.optimiser.step()
    state.step = 1
    checkpoint = state.save(tmp_path / "checkpoints")
    again = TrainState.create(config, CPU)
    again.restore(checkpoint, config.power_ema)
    assert again.step == 1
    for before, after in zip(state.weights, again.weights, strict=True):
        assert torch.equal(state.optimiser.state[before]["average"], again.optimiser.state[after]["average"])
    assert again.optimiser.param_groups[0]["beta1"] == 0.8
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    assert manifest["extra"]["optimiser"]["dict"]


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
TREES = st.recursive(
    PLAIN | st.sampled_from([torch.arange(3), torch.zeros(2, 2, dtype=torch.bfloat16), torch.tensor(True)]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=2) | st.integers(0, 5), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=60)
@given(TREES)
def test_whatever_an_optimiser_remembers_comes_back_as_it_was(tree: Any) -> None:
    """Through the manifest's JSON: types, bits of floats, keys that are numbers."""
    tensors: dict[str, torch.Tensor] = {}
    written = json.loads(json.dumps(plain(pack(tree, "optimiser", tensors)), allow_nan=False))
    found = unpacked(written, tensors)
    assert repr(found) == repr(tree)
    assert type(found) is type(tree)


# --- the digits in features of one's own ----------------------------------------------------------------------------


def test_on_the_digits_own_features_are_measured_as_on_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel distance always; a Fréchet distance from ten images for each feature on."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "corners.py").write_text(CORNERS)
    config = composed("model=N", *TINY, "evaluation.features=corners.Corners", "evaluation.samples=60")
    data = PixelDataset(config, CPU)
    worker = Worker(Ranks(0, 1, CPU), Silent())
    for samples, frechet in ((30, False), (60, True)):
        measure = open_measure(config, data, worker)
        measure.update(to_uint8(data.held.images[:samples]), 0)
        metrics, floor = measure.result(worker.ranks, lambda _: None)
        assert {"kid", "kid_se", "kid_heldout", "kid_heldout_se"} <= set(metrics)
        assert "kid_heldout_against_train" in floor
        assert ("fid" in metrics, "fid_heldout" in metrics) == (frechet, frechet)
        assert "fid_pixels" not in metrics


CORNERS = """
import torch
class Corners(torch.nn.Module):
    def forward(self, images):
        return images[:, 0, 2:6:2, 2:6:2].flatten(1).float()
"""
