"""Which protocol a table's results were evaluated by: results of different protocols are never mixed unnoticed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fcdm.analysis.published import PROTOCOL
from fcdm.errors import UserError
from fcdm.runs.protocol import TRAINED_ONLY

if TYPE_CHECKING:
    from fcdm.analysis.data.curves import RunCurves


def choose_protocol(curves: Sequence[RunCurves], study: str | None, protocol: str | None) -> str:
    """The one protocol of a table. Raises UserError, with what differs, where there are several to choose from."""
    evaluated_by = sorted({evaluated.protocol_id for run in curves for evaluated in run.evaluated})
    if protocol is not None:
        if protocol not in evaluated_by:
            raise UserError(f"nothing was evaluated by '{protocol}'; there: {', '.join(evaluated_by) or 'nothing yet'}")
        return protocol
    if study is not None:
        chosen = next(run.studies[study][0] for run in curves)
        if chosen == TRAINED_ONLY:
            raise UserError(
                f"study '{study}' asks for training alone: evaluate its runs, and choose with --protocol ID"
            )
        return chosen
    if not evaluated_by:
        raise UserError("no run has been evaluated yet: let one reach its first budget and be evaluated")
    headlines = {run_study[0] for run in curves for run_study in run.studies.values()} & set(evaluated_by)
    if len(evaluated_by) == 1 or len(headlines) == 1:
        return headlines.pop() if len(headlines) == 1 else evaluated_by[0]
    known = {key: value["protocol"] for run in curves for key, value in run.protocols.items()}
    raise UserError(
        f"the runs were evaluated by {len(evaluated_by)} protocols, whose numbers cannot be compared "
        f"({protocol_differences({key: known.get(key, {}) for key in evaluated_by})}): "
        "choose with --protocol ID or --study NAME"
    )


def protocol_differences(protocols: dict[str, dict[str, Any]]) -> str:
    """`sampling_steps: 25 in ddim25-..., 10 in ddim10-...; ...`: only what is not the same in all."""
    differing = []
    for key in sorted({key for protocol in protocols.values() for key in protocol}):
        values = {name: protocol.get(key, "not recorded") for name, protocol in protocols.items()}
        if len({str(value) for value in values.values()}) > 1:
            differing.append(f"{key}: " + ", ".join(f"{value} in {name}" for name, value in values.items()))
    return "; ".join(differing) or f"not told apart by what was recorded: {', '.join(protocols)}"


def differences_from_published(protocol: dict[str, object]) -> list[str]:
    """`samples 10,000, published 50,000`: what makes FIDs by this protocol another scale than the published ones."""
    told = []
    for key, theirs in PROTOCOL.items():
        ours = protocol.get(key, "not recorded")
        if ours != theirs and not (key == "features" and str(ours).startswith(str(theirs))):
            told.append(f"{key} {_plain(ours)}, published {_plain(theirs)}")
    return told


def _plain(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
