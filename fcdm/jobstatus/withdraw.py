"""`fcdm.status --withdraw`: take requests back, so that a study can be finished without them.

What was withdrawn is in no table, count or report any more, and its checkpoints are kept for it no longer. The runs'
folders stay as they are; what is evaluated stays too, and comes back with the request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fcdm.atomic import locked
from fcdm.errors import UserError
from fcdm.formatting import plural
from fcdm.jobs.record_study import study_file, withdraw_requests
from fcdm.jobstatus.collect import Looker, Overview
from fcdm.jobstatus.rows import DONE, UNKNOWN
from fcdm.runs.formats import Study
from fcdm.runs.reader import list_studies
from fcdm.slurm.ledger import LAUNCHES

Key = tuple[str, int, str]


@dataclass
class Withdrawal:
    """What --withdraw would take back: requests by study, of the rows that are not done."""

    by_study: dict[str, set[Key]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return sum(map(len, self.by_study.values()))

    def __str__(self) -> str:
        return " and ".join(
            f"{plural(len(keys), 'request')} of study {name}" for name, keys in sorted(self.by_study.items())
        )


def withdrawal_of(overview: Overview) -> Withdrawal:
    """What the rows that are not done ask, in the studies that the overview is about."""
    wanted = {row.key for row in overview.rows if row.state != DONE}
    return Withdrawal({one.name: keys for one in overview.asked.studies if (keys := _requests(one) & wanted)})


def withdraw(looker: Looker, overview: Overview, asked: Withdrawal) -> list[str]:
    """Withdraw them, all or nothing; returns what was done, line by line.

    Raises UserError where something is on its way for one of them, and no other study asks for it, or where nobody can
    tell.

    Looks again under the launchers' lock, so that nothing is submitted for them at the same moment.
    """
    with locked(looker.runs_dir / LAUNCHES / ".lock"):
        again = looker.look(overview.asked)
        _refuse_busy(again, asked, list_studies(looker.runs_dir))
        lines = []
        for name, keys in sorted(asked.by_study.items()):
            taken, left = withdraw_requests(study_file(looker.runs_dir, name), keys)
            runs = sorted({run for run, *_ in keys})
            shown = ", ".join(runs[:3]) + (f" and {len(runs) - 3} more" if len(runs) > 3 else "")
            lines.append(f"withdrawn from study {name}: {plural(taken, 'request')}, of {shown}")
            if not left:
                lines.append(f"study {name} has no request left, and is a study no more; the runs' folders stay")
    lines.append("the same command asks for them again")
    return lines


def _refuse_busy(overview: Overview, asked: Withdrawal, studies: Sequence[Study]) -> None:
    wanted: set[Key] = set().union(*asked.by_study.values())
    for study in studies:
        wanted -= _requests(study) - asked.by_study.get(study.name, set())
    busy = [row for row in overview.rows if row.key in wanted and (row.active or row.cancel)]
    if busy:
        row = busy[0]
        more = f"; and {len(busy) - 1} more" if len(busy) > 1 else ""
        raise UserError(
            f"nothing is withdrawn: {row.run}, step {row.budget}, is {row.state} as {row.job}{more}: cancel it first "
            f"(python -m fcdm.status {row.run} --cancel)"
        )
    unknown = [row for row in overview.rows if row.key in wanted and row.state == UNKNOWN]
    if overview.problem or unknown:
        why = overview.problem or f"{unknown[0].run}: {unknown[0].text}"
        raise UserError(f"nothing is withdrawn: whether something is on its way for it cannot be told ({why})")


def _requests(study: Study) -> set[Key]:
    return {(one.run, step, one.protocol_id) for one in study.requests for step in one.budgets}
