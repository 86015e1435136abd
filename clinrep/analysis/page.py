"""Self-contained pages: one file with its styles and scripts, which may ask nothing of any network."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

TEMPLATES_DIR = Path(__file__).with_name("templates")


def render_page(template: str, styles: list[str], scripts: list[str], **values: Any) -> str:
    """Return the page of a template in `templates/`, with its style sheets and scripts inside.

    The template finds `css`, `js` and `policy`, a Content-Security-Policy that lets run what has the digest of these
    texts and nothing else: no request leaves the page, not even one that a table's text would smuggle in.
    """
    css = "\n".join(_read(name) for name in styles)
    js = "\n".join(_read(name) for name in scripts)
    policy = (
        f"default-src 'none'; style-src {_hash(css)}; script-src {_hash(js)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string(_read(template))
    return page.render(css=Markup(css), js=Markup(js), policy=Markup(policy), **values)


def embed_json(content: Any) -> Markup:
    """Return JSON that may stand inside a script element: no text in it can close the element."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return Markup(text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e"))


def _read(name: str) -> str:
    return (TEMPLATES_DIR / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return a source expression of Content Security Policy Level 3, section 2.3.1."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
