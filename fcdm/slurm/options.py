"""The options of `hydra/launcher=submitit_slurm`: submitit's parameters, whichever it has, and ours."""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import operator
import re
import typing
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from submitit import SlurmExecutor
from submitit.slurm.slurm import _make_sbatch_string

from fcdm.config.check import near
from fcdm.config.setting import setting
from fcdm.config.texts import settle_texts
from fcdm.errors import UserError

_Options = TypeVar("_Options", bound="SlurmOptions")

_SHARED = {str(theirs): ours for ours, theirs in SlurmExecutor._equivalence_dict().items()}
"""Where submitit's executors share a name, and the stock launcher with them: sbatch's `time` is `timeout_min`."""
PARAMETERS = {_SHARED.get(name, name): name for name in sorted(SlurmExecutor._valid_parameters() - {"num_gpus"})}
"""Our options that submitit writes into a batch script -> its names for them. Without a deprecated one, `num_gpus`."""


def _with_submitits(cls: type[Any]) -> type[Any]:
    """The dataclass with a field for each parameter that submitit writes into a batch script; None: not said.

    What a later submitit has more is there by itself, with its type (1.5.4 keeps them in the signature of a function).
    """
    hints = typing.get_type_hints(_make_sbatch_string)
    fields: list[tuple[str, Any, Any]] = []
    for ours, name in PARAMETERS.items():
        if ours not in cls.__dataclass_fields__:
            kind = float | None if name == "mem" else _kind(hints[name])
            fields.append((ours, kind, field(default=None)))
    made = dataclasses.make_dataclass(cls.__name__, fields, bases=(cls,))
    made.__module__, made.__doc__ = cls.__module__, cls.__doc__  # the types that are texts are found by the module
    return made


def _kind(hint: Any) -> Any:
    """A parameter's type as OmegaConf takes it, or None."""
    union = typing.get_origin(hint) is typing.Union
    parts = [part for part in (typing.get_args(hint) if union else (hint,)) if part is not type(None)]
    of_texts = (collections.abc.Iterable, list)
    return functools.reduce(
        operator.or_, (list[str] if typing.get_origin(part) in of_texts else part for part in parts), None
    )


@_with_submitits
@dataclass
class SlurmOptions:
    """submitit's parameters mean what they mean there, by the names that its executors share; null leaves it to the
    job's `resources`. Below are those that we use ourselves, and ours."""

    _target_: str = ""
    name: str = "fcdm-${study}"
    additional_parameters: dict[str, Any] = field(default_factory=dict)
    """Any other option of sbatch."""
    array_parallelism: int = 256
    max_num_timeout: int | None = None
    """A job is requeued at most so often after a time limit or a user's signal; null: as long as it makes progress."""
    submitit_folder: str | None = None
    """Refused: a launch has its folder in `<runs_dir>/launches/`, a job prints into its run's `log.txt`."""

    # Ours.
    python: str | None = None
    """The interpreter on the nodes, where it is another one: in a container, say; null: the one that submits."""
    launch_prefix: str | None = None
    """What stands before the interpreter in each task: `apptainer exec --nv image.sif`."""
    wait: bool = False
    """Wait with a live table until all is done; Ctrl-C leaves the jobs as they are."""
    slurm_conf: str | None = setting(None, path=True)
    """slurm.conf of the cluster, where it is not this machine's own (`python tools/devcluster up`)."""
    max_gpus_per_node: int | None = None
    """GPUs of one node of the cluster: a job that asks for more is spread over nodes."""
    gpu: str | None = None
    """Which GPU the cluster has, for the plan: its speed and memory."""
    mfu: float | None = None
    """Share of the GPU's peak that training reaches, where nothing is measured yet; null: the plan's own guess."""
    check_folder: bool = True
    """Refuse a runs folder on a file system that other machines cannot see."""

    if TYPE_CHECKING:  # the fields that come from submitit

        def __init__(self, **values: Any) -> None: ...

        def __getattr__(self, name: str) -> Any: ...

    @property
    def said(self) -> dict[str, Any]:
        """The parameters of submitit that have a value, by the shared names."""
        return {name: getattr(self, name) for name in PARAMETERS if getattr(self, name) is not None}


def options_from(kind: type[_Options], values: Mapping[str, Any]) -> _Options:
    """Typed options from those of `hydra.launcher`. Raises UserError for what cannot be, or would have no effect."""
    options = kind(**values)
    settle_texts(options, "hydra.launcher.")
    _check_numbers(options)
    _check_additional(options)
    if options.submitit_folder is not None:
        raise UserError(
            "hydra.launcher.submitit_folder has no effect: a launch has its folder in <runs_dir>/launches/, a job "
            "prints into its run's log.txt: leave it away"
        )
    if options.stderr_to_stdout is False:
        raise UserError(
            "hydra.launcher.stderr_to_stdout=false cannot be: a job prints both into its run's log.txt, in the order "
            "in which they come; leave it away"
        )
    _check_shell_words(options)
    if unknown := set((options.mail_type or "NONE").upper().split(",")) - _MAILS:  # which SLURM drops without a word
        raise UserError(f"hydra.launcher.mail_type={options.mail_type}: {near(min(unknown), _MAILS)}")
    for one, others in (("gpus_per_node", ("gpus_per_task",)), ("mem_gb", ("mem_per_cpu", "mem_per_gpu"))):
        for other in others:
            if getattr(options, one) is not None and getattr(options, other) is not None:
                raise UserError(f"hydra.launcher.{one} has no effect beside hydra.launcher.{other}: say one of them")
    if options.dependency and "?" in options.dependency:
        raise UserError(
            f"hydra.launcher.dependency={options.dependency}: with `?` (any of them) jobs of ours that wait for one "
            "another could not be told so: write it with commas (all of them)"
        )
    with warnings.catch_warnings():  # submitit says so of what would not be done as it is asked
        warnings.simplefilter("error")
        try:
            _make_sbatch_string("", Path(), **{PARAMETERS[name]: value for name, value in options.said.items()})
        except Warning as warning:
            raise UserError(f"hydra.launcher: submitit warns: {warning}") from None
    return options


_MAY_BE_ZERO = ("timeout_min", "gpus_per_node", "mem_gb", "max_num_timeout")


def lowest() -> dict[str, int]:
    """The options that are numbers, and the least that each may be."""
    hints = typing.get_type_hints(SlurmOptions)
    counts = [name for name, hint in hints.items() if hint in (int, int | None)]
    return {name: 0 if name in _MAY_BE_ZERO else 1 for name in [*counts, "mem_gb"]}


def _check_numbers(options: SlurmOptions) -> None:
    """Raise UserError for a number that SLURM could not take, or would take for another wish."""
    for name, low in lowest().items():
        value = getattr(options, name)
        if value is not None and value < low:
            raise UserError(f"hydra.launcher.{name}={value} cannot be: at least {low}, or leave it away")


_MAILS = frozenset(
    {"NONE", "BEGIN", "END", "FAIL", "REQUEUE", "ALL", "INVALID_DEPEND", "STAGE_OUT", "ARRAY_TASKS"}
    | {"TIME_LIMIT", "TIME_LIMIT_90", "TIME_LIMIT_80", "TIME_LIMIT_50"}
)
_STEP = re.compile(r"--(output|error|ntasks|export|unbuffered|kill-on-bad-exit|wait)\b|-[oentW]")


def _check_shell_words(options: SlurmOptions) -> None:
    """Raise UserError for words around the interpreter that would undo what a job needs."""
    for word in options.srun_args or []:
        if (found := _STEP.match(word)) and not re.match(r"--export=(.*,)?ALL\b", word):
            said = "say --export=ALL,NAME=value" if found[0] == "--export" else "a launch says that itself"
            raise UserError(f"hydra.launcher.srun_args={word} is not for here: {said}")
    if options.launch_prefix and re.search(r"[&;|\n]", options.launch_prefix):
        raise UserError(
            f"hydra.launcher.launch_prefix={options.launch_prefix!r} is more than one command: a line before the tasks "
            "is one of hydra.launcher.setup"
        )


_MADE = {
    "clusters": "hydra.launcher.slurm_conf= names the cluster",
    "array": "one index is one run: hydra.launcher.array_parallelism= bounds how many run at a time",
    "output": "a job prints into its run's log.txt",
    "error": "a job prints into its run's log.txt",
    "open-mode": "a requeued job goes on in its log",
    "chdir": "a job works in its launch's folder",
    "requeue": "hydra.launcher.max_num_timeout=0 says how often a job may be requeued",
    "no-requeue": "hydra.launcher.max_num_timeout=0 says how often a job may be requeued",
    "signal": "hydra.launcher.signal_delay_s= says when it comes",
    "ntasks": "say hydra.launcher.nodes= and tasks_per_node=",
    "gpus": "say resources.gpus=",
    "num-gpus": "say resources.gpus=",
    "wrap": "the job is a run",
    "test-only": "hydra/launcher=plan starts nothing",
    "wait": "say hydra.launcher.wait=true",
    "parsable": "the ids are read from it",
}
"""Options of sbatch that each launch sets, or that are said in another way."""


def _check_additional(options: SlurmOptions) -> None:
    """Raise UserError for an additional parameter that has an option of its own, or would be overwritten.

    Beginnings too, for sbatch takes `--part` for `--partition`.
    """
    own = {theirs.replace("_", "-"): f"say hydra.launcher.{ours}=" for ours, theirs in PARAMETERS.items()}
    known = {**own, **_MADE}
    for key in options.additional_parameters:
        plain = key.replace("_", "-")
        if not re.fullmatch(r"[a-z][a-z0-9-]+", plain):
            raise UserError(f"hydra.launcher.additional_parameters.{key} is no long option of sbatch (sbatch --help)")
        meant = known.get(plain) or next((advice for name, advice in known.items() if name.startswith(plain)), None)
        if meant:
            raise UserError(f"hydra.launcher.additional_parameters.{key} is not for here: {meant}")


ROWS = ("auto", "all", "groups")


@dataclass
class PlanOptions(SlurmOptions):
    """Every option of `submitit_slurm`, so that cluster profiles fit (`+slurm=h100x4`), and how to print."""

    json: bool = False
    """Print JSON for programs instead of tables."""
    rows: str = "auto"
    """`all`: a row for each run; `groups`: one for each model and resolution; `auto`: groups beyond 60 runs."""
