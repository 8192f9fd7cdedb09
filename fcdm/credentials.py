"""A tracking server's user and password: in the environment of this process and its children, and nowhere else.

`http://user:password@host` is taken apart where a configuration is composed: everything after has `http://host`. MLflow
itself reads MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD, MLFLOW_TRACKING_TOKEN and ~/.mlflow/credentials. Of a
database (`postgresql://user:password@host/name`), which has no such variables, the whole URI stays in
MLFLOW_TRACKING_URI, and is found there by the rest of it.
"""

from __future__ import annotations

import os
import sys
from urllib.parse import unquote

from fcdm.paths import home_expanded, place
from fcdm.redact import redacted, without_userinfo

URI = "MLFLOW_TRACKING_URI"
USER, PASSWORD, TOKEN = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"
ADVICE = f"export {USER} and {PASSWORD}, or write them into ~/.mlflow/credentials"
_NOTE = "everybody on this machine can read a command line, and this one holds a user or password: "


def taken_out(uri: str) -> str:
    """The URI without user and password, which are put into this process's environment."""
    if "://" not in uri:
        return uri
    if not is_server(uri):
        clean = redacted(uri)
        if clean != uri:
            os.environ[URI] = uri
        return clean
    clean, userinfo = without_userinfo(uri)
    if userinfo:
        user, colon, password = userinfo.partition(":")
        os.environ[USER] = unquote(user)
        if colon:
            os.environ[PASSWORD] = unquote(password)
    return clean


def of_command_line(text: str, tell: bool = True) -> str:
    """A folder or URI as it was typed, `~` and credentials taken out; tells that everybody here could read these."""
    uri = home_expanded(text)
    clean = taken_out(uri)
    if clean != uri and tell:
        print(f"note: {_NOTE}{ADVICE if is_server(clean) else f'export {URI} instead'}", file=sys.stderr)
    return clean


def whole(uri: str) -> str:
    """What MLflow is given for a URI that `taken_out` made: of a database with its user and password again."""
    known = os.environ.get(URI, "")
    return known if not is_server(uri) and redacted(known) == uri else uri


def is_server(uri: str) -> bool:
    """Whether it is asked over HTTP."""
    return uri.startswith(("http://", "https://"))


def variables(uri: str | None) -> list[str]:
    """The variables of this environment that hold credentials for a tracking URI (None: MLFLOW_TRACKING_URI's)."""
    known = os.environ.get(URI, "")
    named = [name for name in (USER, PASSWORD, TOKEN) if os.environ.get(name)] if is_server(uri or known) else []
    return named + ([URI] if redacted(known) != known and uri in (None, redacted(known)) else [])


def has_file() -> bool:
    """Whether MLflow's own file of credentials is there; every machine with this home folder reads it."""
    return place("~/.mlflow/credentials").is_file()
