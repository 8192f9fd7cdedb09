"""The jobs that a command line asks for, for commands that are none of Hydra's: as `fcdm.train -m` has them."""

from __future__ import annotations

from collections.abc import Sequence

from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from fcdm.errors import UserError
from fcdm.jobs.job import Job
from fcdm.jobs.make_jobs import make_jobs
from fcdm.sweep.command_line import readable
from fcdm.sweep.compose import Composer
from fcdm.sweep.expand import choices_of
from fcdm.sweep.hydra_errors import is_users, one_line
from fcdm.sweep.hydra_schema import register_schema
from fcdm.sweep.points import configs_of
from fcdm.sweep.sampling_config import own_configs


def jobs_asked(words: Sequence[str]) -> list[Job]:
    """Every run that the words name (`model=N,M steps=[100,200]`, `+sweeps=NAME`), composed and checked; nothing is
    begun. Raises UserError, and for data that is not there."""
    words, searched = own_configs(list(words))
    register_schema()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("fcdm.conf", version_base="1.3"):
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None
            overrides = [*searched, *readable(words)]
            master = hydra.compose_config("train", overrides, run_mode=RunMode.MULTIRUN)
            plain = list(master.hydra.overrides.task)
            composer = Composer(hydra.config_loader, master)
            return make_jobs(configs_of(composer, choices_of(hydra.config_loader, master, plain)))
    except Exception as error:
        raise UserError(one_line(error)) if is_users(error) else error from None
