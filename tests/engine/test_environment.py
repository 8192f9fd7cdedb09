"""Determinism and compilation are what was asked while a stretch of work runs; a resume says what has changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor.config

from fcdm.config.schema import Config
from fcdm.engine.distributed import CUBLAS_WORKSPACE, Ranks
from fcdm.engine.environment import (
    compiled,
    deterministic,
    explaining,
    is_compiled,
    prepare_machine,
    segment_facts,
)
from fcdm.engine.state import create_model
from fcdm.errors import UserError
from fcdm.runs.records import RecordWriter
from tests.support.commands import composed

CPU = torch.device("cpu")
RANKS = Ranks(0, 1, CPU)
LATER = ("nodes", "cuda", "cudnn", "nccl", "compile", "activation_checkpointing", "deterministic")
"""Facts that segments of version 0.1.0's first runs lack."""


@pytest.fixture(scope="module")
def config() -> Config:
    return composed("model=N")


def _flags() -> list[object]:
    cudnn, memory = torch.backends.cudnn, torch.utils.deterministic
    on = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    return [*on, cudnn.deterministic, cudnn.benchmark, memory.fill_uninitialized_memory]


@pytest.mark.parametrize("wanted", [True, False])
def test_determinism_is_set_for_a_stretch_and_put_back(wanted: bool) -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = True
    before = _flags()
    try:
        with deterministic(wanted, CPU):
            assert _flags() == [wanted, False, wanted, not wanted, False]
        assert _flags() == before
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = False


def test_an_operation_without_a_deterministic_variant_is_one_line() -> None:
    line = r"deterministic=true, but torch \S+ has no deterministic put_: use another .* write deterministic=false"
    with pytest.raises(UserError, match=line), deterministic(True, CPU), explaining():
        torch.zeros(3).put_(torch.tensor([1]), torch.ones(1))
    with deterministic(False, CPU), explaining():
        torch.zeros(3).put_(torch.tensor([1]), torch.ones(1))


def test_a_workspace_of_the_user_s_that_forbids_determinism_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CUBLAS_WORKSPACE, ":0:0")
    with (
        pytest.raises(UserError, match="it is :0:0: leave the variable out"),
        deterministic(True, torch.device("cuda")),
    ):
        pass
    with deterministic(False, torch.device("cuda")), deterministic(True, CPU):
        pass


@pytest.mark.parametrize(("asked", "on_cpu", "on_cuda"), [("null", False, True), ("true", True, True), ("false",) * 3])
def test_null_compiles_on_a_gpu_only(asked: str, on_cpu: object, on_cuda: object) -> None:
    config = composed("model=N", f"compile={asked}")
    wanted = [on_cpu is True, on_cuda is True]
    assert [is_compiled(config, torch.device(kind)) for kind in ("cpu", "cuda")] == wanted


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # torch's own
def test_a_machine_that_cannot_compile_says_so_in_one_line() -> None:
    no_compiler = torch._inductor.config.patch({"cpp.cxx": ("/nowhere/g++",), "force_disable_caches": True})
    line = r"^torch cannot compile the model here: write compile=false \(.*compiler.*\)$"
    with pytest.raises(UserError, match=line) as told, no_compiler, explaining():
        torch.compile(lambda x: x.sin() + 1)(torch.ones(3))
    assert "\n" not in str(told.value)


def test_other_errors_are_left_alone() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), explaining():
        torch.ones(2, 3) @ torch.ones(2, 3)


def _segment(records: Path, config: Config, **changed: Any) -> None:
    facts = segment_facts(config, RANKS) | changed
    with RecordWriter(records) as writer:
        writer.segment_start(0, **facts)


def _notes(config: Config, records: Path) -> list[str]:
    notes: list[str] = []
    prepare_machine(config, records, RANKS, notes.append)
    return notes


def test_a_resume_says_what_has_changed(config: Config, tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    _segment(records, config, cudnn=90100, deterministic=False, compile=True, nodes=2)
    told = _notes(config, records)
    assert [line.split(":")[0] for line in told] == [
        "continues with nodes 1, before it was 2",
        "continues with cudnn None, before it was 90100",
        "continues with compile False, before it was True",
        "continues with deterministic True, before it was False",
    ]


def test_segments_without_the_later_facts_say_nothing(config: Config, tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    _segment(records, config)
    line = json.loads(records.read_text())
    assert set(LATER) <= line.keys()
    records.write_text(json.dumps({key: value for key, value in line.items() if key not in LATER}) + "\n")
    assert _notes(config, records) == []


@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.* should not be instantiated")  # by torch itself
def test_training_is_the_same_graph_whatever_was_compiled_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that evaluates first, as after a stop inside an evaluation, would else train on one of any batch size."""
    sizes: list[object] = []
    """Of the batch, of each graph: a number, or a symbol for any."""
    real = torch.compile

    def record(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        given = [node.meta.get("example_value") for node in graph.graph.nodes if node.op == "placeholder"]
        images = [one for one in given if isinstance(one, torch.Tensor) and one.shape[1:] == (1, 8, 8)]
        sizes.append(images[0].shape[0])
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda model, options, dynamic: real(model, backend=record, dynamic=dynamic))
    torch.compiler.reset()
    config = composed("model=N", "compile=true")
    model = create_model(config, CPU)
    t, labels = torch.zeros(8, dtype=torch.int64), torch.zeros(8, dtype=torch.int64)
    sampled, trained = compiled(model, config, CPU), compiled(model, config, CPU, fixed=True)
    for images in (6, 4, 8):  # of an evaluation
        with torch.no_grad():
            sampled(torch.zeros(images, 1, 8, 8), t[:images], labels[:images])
    assert len(sizes) == 2, "sampling compiles a second size for any"
    assert [type(size) is int for size in sizes] == [True, False]
    trained(torch.zeros(8, 1, 8, 8), t, labels)
    torch.compiler.reset()
    assert sizes[2:] == [8]
    assert type(sizes[2]) is int
