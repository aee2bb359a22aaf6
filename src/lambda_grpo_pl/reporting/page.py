"""One self-contained HTML page: the template, its style and scripts, and the data as JSON that nothing executes.

A completion is text that a model wrote, and may hold anything, also HTML. So data enters the page in one place, as JSON
in a block that is not a script, with `<`, `>` and `&` escaped; the scripts put it on the page as text, never as HTML;
and the page's Content-Security-Policy allows its own scripts, by their hash, and no request at all.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

STYLE = ("page.css",)
SCRIPTS = ("elements.js", "charts.js", "curves.js", "runs.js", "evaluations.js", "responses.js", "page.js")
"""In the order in which they are joined."""
ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
UNSAFE = re.compile("[<>&\u2028\u2029\ud800-\udfff]")


def render(contents: Mapping[str, Any]) -> str:
    """Return the page that shows what `contents.collect` returned."""
    style, script = (_join(names) for names in (STYLE, SCRIPTS))
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )
    parts = {"POLICY": policy, "STYLE": style, "SCRIPT": script, "DATA": as_json(contents)}
    template = _read("page.html")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def as_json(contents: Mapping[str, Any]) -> str:
    """Return JSON that is safe inside an element: no `<`, no `&`, and lone surrogates as escapes."""
    text = json.dumps(contents, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return UNSAFE.sub(lambda match: ESCAPES.get(match[0], f"\\u{ord(match[0]):04x}"), text)


def _join(names: tuple[str, ...]) -> str:
    return "\n" + "\n".join(_read(name).strip() for name in names) + "\n"


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _read(name: str) -> str:
    return (files(__package__) / "page" / name).read_text(encoding="utf-8")
