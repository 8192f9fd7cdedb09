"""What is shown and written holds no secret."""

from __future__ import annotations

import pytest

from fcdm.errors import UserError, traceback_text
from fcdm.redact import is_secret, redacted, redacted_words, without_userinfo


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("mlflow_uri=http://kim:pw@host/prefix", "mlflow_uri=http://host/prefix"),
        ("MLflow at https://kim:p@ss@host:5000/x: down", "MLflow at https://host:5000/x: down"),
        ("http://kim:a/b@host/x", "http://host/x"),
        ("http://u:p@ss/w@host/x", "http://host/x"),
        ("http://u:p@s@s/w/v@host:5000/x is down", "http://host:5000/x is down"),
        ("postgresql://u:p@ss/w@host/db?a=b@c", "postgresql://host/db?a=b@c"),
        ("http://u:p@host/x,http://v:q@b/y", "http://host/x,http://b/y"),
        ("http://u:p@host.org/x@y http://u:p@host:80/x@y", "http://host.org/x@y http://host:80/x@y"),
        ("mysql://host/db?pwd=abc&user=kim", "mysql://host/db?pwd=***&user=kim"),
        (
            "python x.py --token abc --password 'a b' --hf-token abc",
            "python x.py --token *** --password '***' --hf-token ***",
        ),
        ("curl -H 'Authorization: Bearer abc' x", "curl -H 'Authorization: Bearer ***' x"),
        ("{'Authorization': 'Basic YWJj', 'x': 1}", "{'Authorization': 'Basic ***', 'x': 1}"),
        ("https://ghp_0123@host/x", "https://host/x"),
        ("postgresql://kim:pw@host/db?sslpassword=1&password=long1", "postgresql://host/db?sslpassword=1&password=***"),
        ("{'uri': 'http://kim:pw@host', 'mail': 'a@b'}", "{'uri': 'http://host', 'mail': 'a@b'}"),
        ("export MLFLOW_TRACKING_PASSWORD=hunter2; run", "export MLFLOW_TRACKING_PASSWORD=***; run"),
        ("setup=[\"export HF_TOKEN='a b'\"]", "setup=[\"export HF_TOKEN='***'\"]"),
        ("model:\n  api_key: abcdef\n  width: 64", "model:\n  api_key: ***\n  width: 64"),
        ("{token: abcdef, x: 1}", "{token: ***, x: 1}"),
        ("api_key:\n- ab,c\n- 'd e'\nwidth: 64", "api_key:\n- ***,***\n- ***\nwidth: 64"),
        ("inner:\n- api_key:\n  - abcdef\n", "inner:\n- api_key:\n  - ***\n"),
        ("[{'x': [{'api_key': ['abcdef', 1]}]}]", "[{'x': [{'api_key': [***, ***]}]}]"),
        ("ALL,AWS_SECRET_ACCESS_KEY=abcd", "ALL,AWS_SECRET_ACCESS_KEY=***"),
    ],
)
def test_secrets_are_hidden(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert redacted(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "http://host:5000/a@b",
        "sqlite:////runs/a@b.db",
        "run N-digits-8px-6fbbfea8@400",
        "model.options.num_tokens=16 token_width=8 cls_token=true tokens=a",
        "token recognition error at: 'x'",
        "unexpected token: here",
        "model.options.token=4096",
        "+model.options.token=1024,4096",
        "model.options.token=[1024,4096]",
        "api_key=${oc.env:KEY} HF_TOKEN=$HF_TOKEN",
        "optimiser.betas=[0.9,0.999]",
        "PWD=/home/kim",
        "--token --width 8",
        "--tokens abc --token 4096",
        "Authorization: Bearer $TOKEN",
        "betas:\n- 0.9\n- 0.999\ntoken:\n- 1024\n- 4096\n",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text) == text
    assert redacted_words([text]) == [text]


def test_a_commands_words() -> None:
    options = [
        "x.py",
        "--token",
        "abc",
        "--password",
        "a b",
        "--token",
        "--width",
        "8",
        "-H",
        "Authorization: Bearer abc",
    ]
    hidden = [
        "x.py",
        "--token",
        "***",
        "--password",
        "***",
        "--token",
        "--width",
        "8",
        "-H",
        "Authorization: Bearer ***",
    ]
    assert redacted_words(options) == hidden
    command = ["python", "+model.options.secret=a b'c", "mlflow_uri='http://kim:p w@h/x'", "seed=0,1"]
    assert redacted_words(command) == ["python", "+model.options.secret=***", "mlflow_uri='http://h/x'", "seed=0,1"]


def test_taking_a_uri_apart() -> None:
    assert without_userinfo("http://kim:a@b@host:5000/x@y") == ("http://host:5000/x@y", "kim:a@b")
    assert without_userinfo("http://u:p@ss/w@host/x") == ("http://host/x", "u:p@ss/w")
    assert without_userinfo("http://u:p@host") == ("http://host", "u:p")
    assert without_userinfo("http://host/x@y") == ("http://host/x@y", "")


def test_switches_and_sizes_are_no_secrets() -> None:
    assert is_secret("model.options.hf_token", "hf_abcdefgh")
    for value in (12345678, ["abcdef"], "[16,abcdef]", 0.12345678):
        assert is_secret("model.options.password", value)
    for value in (True, 16, 0.5, [16, 32], None, "true", "16", "", "$HF_TOKEN"):
        assert not is_secret("model.options.cls_token", value)


def test_no_message_and_no_traceback_holds_one() -> None:
    assert str(UserError("http://kim:pw@host is down")) == "http://host is down"
    assert traceback_text(ValueError("http://kim:pw@host is down")) == "ValueError: http://host is down\n"
