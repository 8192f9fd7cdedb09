"""HTML as nested calls: `element("p", "a < b", class_="note")`. What is not made here is escaped."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape
from typing import Union

Content = Union["HTML", str, None, Iterable["Content"]]

_EMPTY = ("img", "meta", "br", "hr")


class HTML(str):
    """Markup that is ready: it is put in as it stands."""


def element(tag: str, *content: Content, **attributes: str | bool | None) -> HTML:
    """`<tag attributes>content</tag>`; texts are escaped. `class_` is `class`; True: no value; None: left out."""
    words = [tag]
    for name, value in attributes.items():
        if value is True:
            words.append(name.rstrip("_").replace("_", "-"))
        elif value is not None and value is not False:
            words.append(f'{name.rstrip("_").replace("_", "-")}="{escape(str(value))}"')
    start = f"<{' '.join(words)}>"
    return HTML(start if tag in _EMPTY else f"{start}{joined(content)}</{tag}>")


def joined(content: Content) -> HTML:
    """Contents one after another."""
    if content is None:
        return HTML("")
    if isinstance(content, HTML):
        return content
    if isinstance(content, str):
        return HTML(escape(content))
    return HTML("".join(joined(part) for part in content))


def data_uri(content: bytes, kind: str) -> str:
    """`data:image/png;base64,...`: the file itself, instead of an address to ask."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
