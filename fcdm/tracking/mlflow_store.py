"""One MLflow store, as `fcdm.tracking.forward` needs it: reached with bounded waits, created once, locked.

MLflow is imported when the store is first used (it takes seconds).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import re
import textwrap
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from fcdm import credentials
from fcdm.config.texts import OFF
from fcdm.errors import UserError
from fcdm.paths import home_expanded

EXPERIMENT = "fcdm"
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""What MLflow's UI shows first: training curves, not traces of language models."""
PARAMS_PER_CALL = 90
RUNS_ASKED_ONE_BY_ONE = 20
REFUSALS = {"UNAUTHENTICATED": "401", "PERMISSION_DENIED": "403"}
"""MLflow's names of HTTP's codes; other doors before a server say the codes."""

BOUNDS = {
    # MLflow's own defaults let one call block for four minutes while a server is down.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class StoreBusy(UserError):
    """Another process forwards to the same store."""


def store_uri(runs_dir: Path | str, uri: str | None = None) -> str:
    """The tracking URI: the one given, else $MLFLOW_TRACKING_URI, else sqlite in `<runs_dir>/mlflow.db`.

    Without user and password: `fcdm.credentials` keeps these. Raises UserError for `off`, which is no store.
    """
    asked = uri or os.environ.get(credentials.URI)
    if asked and asked.lower() in OFF:
        said = "--uri" if uri else credentials.URI
        raise UserError(f"{said} {asked} is no store: a URI (http://host:5000), or leave it out for <runs>/mlflow.db")
    return (
        credentials.taken_out(home_expanded(asked)) if asked else f"sqlite:///{Path(runs_dir).resolve() / 'mlflow.db'}"
    )


@contextlib.contextmanager
def store_lock(runs_dir: Path, uri: str, wait: float) -> Iterator[None]:
    """One forwarder at a time for each store. Raises StoreBusy after `wait` seconds."""
    name = f".mlflow-{hashlib.sha256(uri.encode()).hexdigest()[:8]}.lock"
    give_up = time.monotonic() + wait
    try:
        lock = open(runs_dir / name, "a")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"{runs_dir / name} cannot be opened ({error.strerror}): is {runs_dir} yours?") from None
    with lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= give_up:
                    raise StoreBusy(f"another process is forwarding to {uri}: try again when it is done") from None
                time.sleep(0.1)
        yield


class Store:
    """The experiment `fcdm` in an MLflow store. Use inside `store_lock` and `reaching`."""

    def __init__(self, runs_dir: Path, uri: str | None = None) -> None:
        self.runs_dir = runs_dir
        self.uri = store_uri(runs_dir, uri)
        self._experiment: str | None = None
        self._file: tuple[int, int] | None = None  # device and inode of the database that the client has open

    @cached_property
    def _mlflow(self) -> Any:
        for key, value in BOUNDS.items():
            os.environ.setdefault(key, value)
        import mlflow

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        return mlflow

    @cached_property
    def errors(self) -> tuple[type[Exception], ...]:
        """What MLflow lets through when a store is down, full or not to be written."""
        import requests
        from sqlalchemy.exc import SQLAlchemyError

        return (self._mlflow.exceptions.MlflowException, requests.RequestException, SQLAlchemyError, OSError)

    @contextlib.contextmanager
    def reaching(self, what: str = "the records", otherwise: str = "") -> Iterator[None]:
        """Turns every failure of the store into one line, and forgets the connection.

        `what` it does not take, and what to do then (default: of records).
        """
        try:
            yield
        except ImportError as error:
            self.forget()
            raise missing_package(self.uri, error) from None
        except self.errors as error:
            self.forget()
            otherwise = otherwise or (
                "They are safe in the runs' folders; forward them later: "
                f"python -m fcdm.sync {self.runs_dir} --uri {self.uri}"
            )
            raise UserError(f"MLflow at {self.uri} does not take {what} ({reason(error)}). {otherwise}") from None

    @cached_property
    def client(self) -> Any:
        if self.database is not None and not self.database.exists():
            self._create_database(self.database)
        client = self._mlflow.MlflowClient(credentials.whole(self.uri))
        if self.database is not None:
            # MLflow keeps connections per URI in this process; they may be to a file that stood here before.
            _close_connections(client)
            stat = self.database.stat()
            self._file = (stat.st_dev, stat.st_ino)
        return client

    def replaced(self) -> bool:
        """Whether the database was deleted or replaced since it was opened. Forgets the old one."""
        if self._file is None or self.database is None:
            return False
        try:
            stat = self.database.stat()
            if self._file == (stat.st_dev, stat.st_ino):
                return False
        except OSError:
            pass  # deleted
        self.forget()
        return True

    def forget(self) -> None:
        """The next use connects anew."""
        self._experiment = self._file = None
        self.__dict__.pop("client", None)

    @property
    def database(self) -> Path | None:
        """The file of a sqlite store."""
        return Path(self.uri.removeprefix("sqlite:///")) if self.uri.startswith("sqlite:///") else None

    def _create_database(self, path: Path) -> None:
        """Made whole under another name, then renamed: a half-migrated database breaks whoever opens it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".new-{path.name}")
        temporary.unlink(missing_ok=True)
        client = self._mlflow.MlflowClient(f"sqlite:///{temporary}")
        client.search_experiments(max_results=1)
        _close_connections(client)
        temporary.rename(path)

    @property
    def experiment(self) -> str:
        """Its id; made where it is missing. Raises UserError where a person has deleted it."""
        if self._experiment is None:
            found = self.client.get_experiment_by_name(EXPERIMENT)
            if found is None:
                files = self.database.parent.resolve() / "mlflow-artifacts" if self.database else None
                place = files.as_uri() if files else None  # None: where the server keeps its files
                try:
                    self._experiment = self.client.create_experiment(EXPERIMENT, place, EXPERIMENT_TAGS)
                except self._mlflow.exceptions.MlflowException:
                    found = self.client.get_experiment_by_name(EXPERIMENT)  # made by another machine just now
                    if found is None:
                        raise
            if found is not None:
                if found.lifecycle_stage == "deleted":
                    raise UserError(
                        f"the experiment '{EXPERIMENT}' was deleted in {self.uri}: bring it back with "
                        f"`mlflow experiments restore --experiment-id {found.experiment_id}`"
                    )
                self._experiment = str(found.experiment_id)
        assert self._experiment is not None
        return self._experiment

    def find(self, tag: str, values: Sequence[str]) -> dict[str, Any]:
        """The MLflow runs whose `tag` has one of the values: the oldest; a deleted one if no other is."""
        view = self._mlflow.entities.ViewType.ALL
        filters = [f"tags.`{tag}` = '{v}'" for v in values] if len(values) <= RUNS_ASKED_ONE_BY_ONE else [""]
        found: dict[str, Any] = {}
        for text in filters:
            token = None
            while True:
                page = self.client.search_runs([self.experiment], text, view, 1000, ["attributes.start_time"], token)
                for run in page:
                    value = run.data.tags.get(tag, "")
                    if value not in found or found[value].info.lifecycle_stage == "deleted":
                        found[value] = run
                token = page.token
                if not token:
                    break
        return found

    def create(self, name: str, started: float, tags: dict[str, str]) -> Any:
        """A new MLflow run with its tags, in one call: a crash leaves it findable or not there."""
        return self.client.create_run(self.experiment, round(started * 1000), tags, name)

    def describe(
        self, run_id: str, *, params: dict[str, str] | None = None, tags: dict[str, str] | None = None
    ) -> None:
        entities = self._mlflow.entities
        rest = [entities.Param(key, value) for key, value in (params or {}).items()]
        labels = [entities.RunTag(key, value) for key, value in (tags or {}).items()]
        while rest or labels:
            self.client.log_batch(run_id, params=rest[:PARAMS_PER_CALL], tags=labels[:PARAMS_PER_CALL])
            rest, labels = rest[PARAMS_PER_CALL:], labels[PARAMS_PER_CALL:]

    def remove_tag(self, run_id: str, key: str) -> None:
        self.client.delete_tag(run_id, key)

    def send(self, run_id: str, rows: list[tuple[str, float, int, int]], tags: dict[str, str]) -> int:
        """Rows (key, value, timestamp in ms, step), then the tags that count them. Returns how many rows."""
        entities = self._mlflow.entities
        labels = [entities.RunTag(key, value) for key, value in tags.items()]
        self.client.log_batch(run_id, metrics=[entities.Metric(*row) for row in rows], tags=labels)
        return len(rows)

    def send_file(self, run_id: str, path: Path, folder: str | None = None) -> None:
        self.client.log_artifact(run_id, str(path), folder)

    def set_status(self, run: Any, status: str, ended: float) -> None:
        if run.info.status == status:
            return
        if status in ("FINISHED", "FAILED"):
            self.client.set_terminated(run.info.run_id, status, round(ended * 1000))
        else:
            self.client.update_run(run.info.run_id, status)


def missing_package(uri: str, error: ImportError) -> UserError:
    """Of a store that needs more than MLflow, as a database its driver."""
    return UserError(f"MLflow at {uri} needs the Python package '{error.name}', which is not installed")


def reason(error: BaseException) -> str:
    """Why a store does not answer, in a few words: what lies below MLflow says it in ten nested ones."""
    text = str(error)
    said = re.search(r"error code (401|403)\b|\b(401|403) Client Error", text)
    if code := REFUSALS.get(getattr(error, "error_code", "")) or (said and (said[1] or said[2])):
        why = "it does not know the user or the password" if code == "401" else "this user may not do that"
        return f"{code}, {why}: {credentials.ADVICE}"
    if below := re.findall(r"\[Errno -?\d+\] ([^'\")\]\n]+)", text):
        return str(below[-1]).strip()
    if "timed out" in text.lower():
        return "timed out"
    first = (text.splitlines() or [""])[0]
    return textwrap.shorten(f"{type(error).__name__}: {first}", 160, placeholder=" ...")


def _close_connections(client: Any) -> None:
    engine = getattr(client._tracking_client.store, "engine", None)
    if engine is not None:
        engine.dispose()
