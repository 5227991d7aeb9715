"""A griffe extension: the reStructuredText that docstrings use, turned into Markdown for mkdocstrings.

Docstrings are read in an editor and in ``help()`` more often than here, and are written for there: references are roles
as ``:func:`fit```, and equations are ``.. math::``. Names are looked up where they stand, so that ``:meth:`refit```
finds the method of the same class.
"""

import re
import textwrap
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):`(~?)([\w.]+)`")
_MATH = re.compile(
    r"^(?P<indent> *)\.\. math:: *(?P<first>.*)\n"
    r"(?P<rest>(?:(?P=indent)[ ]+\S.*\n|[ ]*\n(?=(?P=indent)[ ]+\S))*)",
    re.MULTILINE,
)


class RstDocstrings(griffe.Extension):
    """Rewrite the docstring of every object when it has been loaded."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Start when everything is there that a reference can point to."""
        self._package = pkg
        self._rewrite(pkg)

    def _rewrite(self, obj: griffe.Object | griffe.Alias) -> None:
        if obj.docstring is not None:
            obj.docstring.value = self._markdown(obj, obj.docstring.value)
        for member in obj.members.values():
            if not member.is_alias:
                self._rewrite(member)

    def _markdown(self, obj: griffe.Object | griffe.Alias, text: str) -> str:
        text = _MATH.sub(_display, text + "\n").removesuffix("\n")
        return _ROLE.sub(lambda match: self._reference(obj, match[2], bool(match[1])), text)

    def _reference(self, obj: griffe.Object | griffe.Alias, name: str, short: bool) -> str:
        shown = f"`{name.rpartition('.')[2] if short else name}`"
        path = name
        if not name.startswith(f"{self._package.path}."):
            try:
                path = obj.resolve(name)
            except griffe.NameResolutionError:
                return shown
        public = path.startswith(f"{self._package.path}.") and "._" not in path
        # What the pages do not show, as inner functions, stays text.
        return f'<autoref identifier="{path}" optional>{shown}</autoref>' if public else shown


def _display(match: re.Match[str]) -> str:
    lines = [match["first"], *textwrap.dedent(match["rest"]).splitlines()]
    formula = " ".join(line.strip() for line in lines if line.strip())
    return f"\n{match['indent']}$$\n{match['indent']}{formula}\n{match['indent']}$$\n"
