"""`python -m fcdm.train`: train and evaluate the runs that the command line asks for; the same command continues."""

from __future__ import annotations

import os
import sys

import hydra
from omegaconf import DictConfig

from fcdm.engine.stop import end_process
from fcdm.errors import traceback_text
from fcdm.jobs.make_jobs import make_jobs
from fcdm.jobs.record_study import record_study, refuse_lost_requests, this_command
from fcdm.jobs.run_job import train_here
from fcdm.runs.branches import one_branch
from fcdm.runs.processes import is_first_process
from fcdm.sweep.command_line import readable
from fcdm.sweep.compose import one_choice
from fcdm.sweep.expand import last_of_each
from fcdm.sweep.hydra_errors import is_users, one_line
from fcdm.sweep.hydra_schema import register_schema
from fcdm.sweep.job_launcher import tell_of_inline

register_schema()

_failure: Exception | None = None


@hydra.main(config_path="pkg://fcdm.conf", config_name="train", version_base="1.3")
def compose_and_train(composed: DictConfig) -> None:
    """One configuration, in this process; a sweep (`-m`) is `fcdm.sweep.sweeper`'s.

    Keeps what went wrong instead of raising it: Hydra would print its own lines around it.
    """
    global _failure
    try:
        composer, choice = one_choice("fcdm.train", "run")
        said = composer.said(choice).keys
        configs = [composer.config(one) for one in composer.each_space(choice)]
        jobs = make_jobs([part for config in configs for part in one_branch(config, said)])
        refuse_lost_requests(jobs)
        if is_first_process():
            record_study(jobs, this_command())
            tell_of_inline(jobs)
        train_here(jobs[0], forward=True)
    except Exception as error:
        _failure = error


def main() -> int:
    """Exit code 0: everything asked for is trained and evaluated."""
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors through to here, where they become one line
    try:
        sys.argv[1:] = last_of_each(readable(sys.argv[1:]))
        compose_and_train()
        if _failure is not None:
            raise _failure
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130
    except Exception as error:
        if wants_traceback or not is_users(error):
            print(traceback_text(error), end="", file=sys.stderr)
        print(f"fcdm.train: {one_line(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    end_process(main)
