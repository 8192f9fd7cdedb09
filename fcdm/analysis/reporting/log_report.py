"""A study's report in MLflow: an artifact of the study's own MLflow run, replaced each time.

Runs of training are found by the tag `fcdm.run_id`; a study has one MLflow run of its own beside them, in the same
experiment, found by the tag `fcdm.study`. Its artifact `report.html` is the page (the LaTeX tables are in it), its
description what a terminal shows.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from fcdm.atomic import write_atomic
from fcdm.tracking.mlflow_store import Store, store_lock

STUDY = "fcdm.study"
PAGE = "report.html"


def log_report(study: str, html: str, summary: str, runs_dir: Path, uri: str | None = None) -> str:
    """Puts the page in place of the last one; returns a line for people.

    Raises UserError where the store does not answer, StoreBusy where another process forwards to it for ten minutes.
    """
    store = Store(runs_dir, uri)
    again = "The page on disk is whole; say --mlflow again when it answers"
    with store_lock(runs_dir, store.uri, 600.0), store.reaching("the report", again):
        found = store.find(STUDY, [study]).get(study)
        if found is None or found.info.lifecycle_stage == "deleted":
            found = store.create(f"study {study}", time.time(), {STUDY: study, "studies": study})
        with tempfile.TemporaryDirectory() as folder:
            page = Path(folder) / PAGE
            write_atomic(page, html)
            store.send_file(found.info.run_id, page)
        store.describe(found.info.run_id, tags={"mlflow.note.content": summary})
        store.set_status(found, "FINISHED", time.time())
    return f"in MLflow at {store.uri}: run 'study {study}', artifact {PAGE}"
