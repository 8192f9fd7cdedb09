"""What a batch script does in the shell, around its header: find the job of this task, set up, start its processes."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from fcdm.slurm.options import SlurmOptions
from fcdm.slurm.resources import Resources

# Until Python has its handlers, a signal that asks for a requeue would kill the task: it is held back until then
# (fcdm.engine.stop), or lost where env cannot do that (coreutils before 8.31).
_HOLD_SIGNALS = (
    'trap "" USR1 USR2; hold="env --default-signal=USR1,USR2 --block-signal=USR1,USR2"; '
    '$hold true 2>/dev/null || hold=; exec $hold "$@"'
)

SETUP_FAILED = "setup line failed"
"""How the last line of a log begins whose job ended at a line of the user's `setup`."""

# Of the lines themselves, and not of what a sourced file or a function does on its way: those have their own mind.
_STOP_AT_SETUP = (
    f'fcdm_setup_failed() {{ echo "{SETUP_FAILED} (exit code $1): $2" >> "$fcdm_run/log.txt"; exit 1; }}',
    "trap 'fcdm_code=$?; (( ${#BASH_SOURCE[@]} > 1 )) || fcdm_setup_failed $fcdm_code \"$BASH_COMMAND\"' ERR",
)

_SIGNALS = "TERM INT USR1 USR2"


def before(request: Resources, options: SlurmOptions, job_files: list[Path], code: Path) -> list[str]:
    """Lines before the task's processes: which job this task does, its environment, the user's `setup`."""
    lines = [
        "fcdm_jobs=(",
        *(f"  {shlex.quote(str(path))}" for path in job_files),
        ")",
        "fcdm_job=${fcdm_jobs[$SLURM_ARRAY_TASK_ID]}",
        "fcdm_run=${fcdm_job%/jobs/*}",
        "export FCDM_SLURM=1",
    ]
    if options.max_num_timeout is not None:
        lines.append(f"export FCDM_MAX_REQUEUES={options.max_num_timeout}")
    if options.slurm_conf:
        lines.append(f"export SLURM_CONF={shlex.quote(str(Path(options.slurm_conf).absolute()))}")
    if request.cpus_per_task:
        # Else every job starts as many threads as the node has cores, not as it was given.
        lines += [f"export {name}={request.cpus_per_task}" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")]
    if options.setup:
        lines += [
            *_STOP_AT_SETUP,
            'exec 8>&1 9>&2 >> "$fcdm_run/log.txt" 2>&1  # where the reason will be looked for',
            *options.setup,
            "exec 1>&8 2>&9 8>&- 9>&-",
            "trap - ERR; set +eu  # whatever the lines above have set",
        ]
    return [
        *lines,
        "# The code as it was at submission. -P below: else the working directory would come before it.",
        f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
        "unset PYTHONDONTWRITEBYTECODE",
    ]


def command(request: Resources, options: SlurmOptions) -> str:
    """The line that starts the task's processes, and whatever has to stand around it."""
    interpreter = shlex.quote(options.python or sys.executable)
    prefix = f"{options.launch_prefix} " if options.launch_prefix else ""
    words = [
        *([] if options.use_srun is False else [*_srun(request, options), "\\\n "]),
        f"bash -c {shlex.quote(_HOLD_SIGNALS)} fcdm \\\n ",
        f'{prefix}{interpreter} -P -u -m fcdm.job "$fcdm_job" >> "$fcdm_run/log.txt" 2>&1',
    ]
    started = " ".join(words)
    if not options.teardown:
        # exec: a signal to this shell must reach srun, and through it the tasks, instead of ending the job.
        return f"exec {started}"
    return "\n".join(
        (
            f"{started} &",
            "# A signal to this shell must reach the tasks, and this shell must be there after them.",
            f'fcdm_child=$!; for name in {_SIGNALS}; do trap "kill -$name $fcdm_child 2>/dev/null" $name; done',
            "# A signal that comes ends `wait` with 128 + n: what counts is how the child ends, which bash remembers.",
            "while wait $fcdm_child; code=$?; kill -0 $fcdm_child 2>/dev/null; do :; done",
            "wait $fcdm_child; fcdm_code=$?; (( fcdm_code == 127 )) || code=$fcdm_code",
            "readonly code; trap 'exit $code' EXIT  # a line below that ends the shell, too",
        )
    )


def after(options: SlurmOptions) -> list[str] | None:
    """Lines after the task's processes: the user's `teardown`. The job ends as they ended, whatever these lines do."""
    return options.teardown or None


def dependency_of(script: Path, after: str) -> str:
    """What sbatch is told that a script waits for: the jobs `after`, as afterany takes them, and what its header says,
    which sbatch would forget; "" where the header says it all."""
    if not after:
        return ""
    own = re.search(r"^#SBATCH --dependency=(\S+)", script.read_text(), re.M)
    return ",".join([*([own[1]] if own else []), f"afterany:{after}"])


def _srun(request: Resources, options: SlurmOptions) -> Iterator[str]:
    # --wait=0: the first rank may try to requeue the job for minutes after the others have ended.
    yield "srun --unbuffered --kill-on-bad-exit=1 --wait=0"
    # The script's environment, whatever sbatch's --export says: srun would obey SLURM_EXPORT_ENV (NONE: no code).
    yield "--export=ALL"
    # Since SLURM 22.05 a step does not take over the job's --cpus-per-task by itself.
    if request.cpus_per_task:
        yield f"--cpus-per-task={request.cpus_per_task}"
    yield from map(shlex.quote, options.srun_args or [])
