"""Secrets are never written down or shown: the user and password of a URI, and what stands under a secret's name.

What is taken out of a URI is left out, so that a command can be repeated as it is written; who repeats it has the
credentials in the environment (`fcdm.credentials`). Any other secret becomes `***`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

HIDDEN = "***"

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*://"
_HOST = r"(?:localhost|\[[^\]/]*\]|[^/@?#]*\.[^/@?#]*|[^/@?#]*:\d+)(?:[/?#]|$)"
"""What can only be a host: it has a dot or a port."""


def _userinfo(stop: str) -> tuple[str, ...]:
    """Patterns of a URI up to its @, tried in this order; `stop`: characters that end a URI in a text."""
    rest = rf"(?:(?!://)[^?#{stop}])*"
    return (
        # A password with both @ and /: to the last @ of all, unless a host stands after the first. The path of a host
        # of one bare word may have an @ too, and then is cut: rather that than a part of a password shown.
        rf"(?P<scheme>{_SCHEME})(?P<user>[^/:@{stop}]+:[^/{stop}]*@(?![^/@{stop}]*@)(?!{_HOST}){rest}/{rest})@",
        # To the last @ before the path.
        rf"(?P<scheme>{_SCHEME})(?P<user>[^/{stop}]+)@",
        # A password with a / and no @ before it (a port looks like one, but ends there).
        rf"(?P<scheme>{_SCHEME})(?P<user>[^/:@{stop}]+:(?!\d*(?:/|$))[^{stop or chr(0)}]*)@",
    )


_WHOLE = tuple(re.compile(rf"{pattern}(?P<place>.*)", re.DOTALL) for pattern in _userinfo(""))
_INSIDE = tuple(re.compile(rf"(?<![\w+.-]){pattern}") for pattern in _userinfo(r"\s'\""))

_SECRETS = {"password", "passwd", "pwd", "passphrase", "secret", "token", "apikey", "credential", "credentials"}
_SECRET_PAIRS = {(first, "key") for first in ("api", "access", "private", "secret")}
_KEY = r"(?<![\w.-])(?P<key>[A-Za-z_][\w.-]*)"
_VALUE = r"""(?P<value>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|(?!//)[^\s"'\[\]{}()&;,]+)"""
# YAML's and Python's, where a mapping may have a key: prose has colons too.
_NAMED = rf"""(?P<before>(?:^[ \t-]*|[{{,]\s*)["']?{_KEY}["']?:"""
_ENTRIES = (
    re.compile(rf"(?P<before>{_KEY} ?= ?){_VALUE}"),
    re.compile(rf"{_NAMED} ?){_VALUE}", re.MULTILINE),
    re.compile(rf"(?P<before>(?<![\w-])--(?P<key>[A-Za-z][\w.-]*) +)(?!-){_VALUE}"),
)
_HEADER = re.compile(
    r"""(\bauthorization["']?\s*[:=]\s*["']?(?:bearer|basic|digest|token|apikey)\s+)(?![$*])[^\s"',;}]+""",
    re.IGNORECASE,
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
    if key == "PWD":  # a shell's working directory
        return False
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
    text = _HEADER.sub(rf"\g<1>{HIDDEN}", text)
    for pattern in _ENTRIES:
        text = pattern.sub(_hidden, text)
    for pattern in _LISTS:
        text = pattern.sub(_hidden_list, text)
    return text


def redacted_words(words: Iterable[str]) -> list[str]:
    """A command's words, each without its secrets; of `key=value` and `--key value` the whole value."""
    shown: list[str] = []
    option = ""
    for word in words:
        shown.append(HIDDEN if option and not word.startswith("-") and is_secret(option, word) else _word(word))
        option = word[2:] if word.startswith("--") and "=" not in word else ""
    return shown


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
