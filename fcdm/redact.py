"""Secrets are never written down or shown: the user and password of a URI, and what stands under a secret's name.

What is taken out of a URI is left out, so that a command can be repeated as it is written; who repeats it has the
credentials in the environment (`fcdm.credentials`). Any other secret becomes `***`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

HIDDEN = "***"

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*://"
# Up to the last @ before the path; else a password that holds a / (a port looks like one, but ends there).
_USERINFO = (r"(?P<user>[^/]+)@", r"(?P<user>[^/:@]+:(?!\d*(?:/|$)).*)@")
_WHOLE = tuple(re.compile(rf"(?P<scheme>{_SCHEME}){user}(?P<place>.*)", re.DOTALL) for user in _USERINFO)
_INSIDE = tuple(
    re.compile(rf"(?<![\w+.-])(?P<scheme>{_SCHEME}){user}")
    for user in (r"[^\s/'\"]+@", r"[^\s/'\":@]+:(?!\d*(?:/|$))[^\s'\"]*@")
)

_SECRETS = {"password", "passwd", "passphrase", "secret", "token", "apikey", "credential", "credentials"}
_SECRET_PAIRS = {(first, "key") for first in ("api", "access", "private", "secret")}
_KEY = r"(?<![\w.-])(?P<key>[A-Za-z_][\w.-]*)"
_VALUE = r"""(?P<value>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|(?!//)[^\s"'\[\]{}()&;,]+)"""
# YAML's and Python's, where a mapping may have a key: prose has colons too.
_NAMED = rf"""(?P<before>(?:^[ \t-]*|[{{,]\s*)["']?{_KEY}["']?:"""
_ENTRIES = (
    re.compile(rf"(?P<before>{_KEY} ?= ?){_VALUE}"),
    re.compile(rf"{_NAMED} ?){_VALUE}", re.MULTILINE),
)
_LISTS = (
    re.compile(rf"{_NAMED} ?)(?P<value>\[[^\]]*\])", re.MULTILINE),
    re.compile(rf"{_NAMED}[ \t]*\n)(?P<value>(?:[ \t]*- .*(?:\n|\Z))+)", re.MULTILINE),
)
_PLAIN = re.compile(r"null|none|true|false|on|off|yes|no|\d{1,3}(\.\d{1,3})?|\*+|\$.*", re.IGNORECASE | re.DOTALL)
"""Under no name a secret: switches, sizes, and references to a variable."""
_SIZE = re.compile(r"\d{1,15}")
"""Under the bare name `token` none either: a model's width of a token."""


def without_userinfo(uri: str) -> tuple[str, str]:
    """(the URI without `user:password@`, that `user:password`, or "" where there is none)."""
    for pattern in _WHOLE:
        if match := pattern.fullmatch(uri):
            return match["scheme"] + match["place"], match["user"]
    return uri, ""


def names_a_secret(key: str) -> bool:
    """Whether a key's last words say so: `hf_token`, `model.options.api_key`; not `tokens` or `token_width`."""
    words = re.split(r"[._-]+", key.lower())
    return words[-1] in _SECRETS or tuple(words[-2:]) in _SECRET_PAIRS


def is_secret(key: str, value: object) -> bool:
    """Whether what stands under a key must not be shown: a text, a number, or a list or sweep with one such in it."""
    if not names_a_secret(key):
        return False
    may_be_size = re.split(r"[.+~]", key.lower())[-1] == "token"
    text = str(value)
    words = [text] if text.startswith("$") else re.findall(r"[^\s,;'\"()\[\]]+", text)
    return any(not (_PLAIN.fullmatch(word) or (may_be_size and _SIZE.fullmatch(word))) for word in words)


def redacted(text: str) -> str:
    """The text without the secrets that stand in it."""
    for pattern in _INSIDE:
        text = pattern.sub(r"\g<scheme>", text)
    for pattern in _ENTRIES:
        text = pattern.sub(_hidden, text)
    for pattern in _LISTS:
        text = pattern.sub(_hidden_list, text)
    return text


def redacted_words(words: Iterable[str]) -> list[str]:
    """A command's words, each without its secrets; of `key=value` the whole value, whatever it holds."""
    return [_word(word) for word in words]


def _word(word: str) -> str:
    key, equals, value = word.partition("=")
    uri = value.strip("'\"")
    clean, user = without_userinfo(uri)
    if equals and user and re.match(_SCHEME, uri):
        word = f"{key}={value.replace(uri, clean)}"
    elif equals and is_secret(key, uri):
        return f"{key}={HIDDEN}"
    return redacted(without_userinfo(word)[0] if re.match(_SCHEME, word) else word)


def _hidden(match: re.Match[str]) -> str:
    value = match["value"]
    quote = value[0] if value[0] in "\"'" else ""
    bare = value[1:-1] if quote else value
    # What is no secret itself may hold one: setup=["export X_TOKEN=..."], uri=postgresql://host/name?password=...
    shown = HIDDEN if is_secret(match["key"], bare) else redacted(bare)
    return match["before"] + quote + shown + quote


def _hidden_list(match: re.Match[str]) -> str:
    value = match["value"]
    if is_secret(match["key"], value.replace("- ", " ")):
        return match["before"] + re.sub(r"[^\s,\[\]-][^,\[\]\n]*", HIDDEN, value)
    return match["before"] + value[0] + match.re.sub(_hidden_list, value[1:])  # a list may hold mappings with lists
