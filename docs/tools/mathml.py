"""A MkDocs hook: equations become MathML when the site is built, which browsers show without script or network."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

_FORMULA = re.compile(r'<(span|div) class="arithmatex">(?:\\\((.*?)\\\)|\\\[(.*?)\\\])</\1>', re.S)
# latex2mathml puts these names beside their arguments without a space, and \mathrm's letters one by one.
_WORD = re.compile(r"\\mathrm\{([a-z]{2,})\}|\\(log|ln)\b")


def on_page_content(content: str, **kwargs: Any) -> str:
    """Convert what ``pymdownx.arithmatex`` has marked."""
    return _FORMULA.sub(_mathml, content)


def _mathml(match: re.Match[str]) -> str:
    inline = match[2] is not None
    formula = html.unescape(match[2] if inline else match[3]).strip()
    words = _WORD.sub(lambda name: f"\\operatorname{{{name[1] or name[2]}}}", formula)
    mathml = convert(words, display="inline" if inline else "block")
    if "&</m" in mathml or "\\" in mathml:
        raise ValueError(f"latex2mathml does not know all of {formula!r}; write it otherwise")
    return f'<{match[1]} class="math">{mathml}</{match[1]}>'
