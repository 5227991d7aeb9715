"""A page that is read without a network: no script, no style sheet, no font from elsewhere."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from mn_lightning.inspection.numbers import Number

GENERATOR = "mn-lightning inspect"

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2em auto; padding: 0 1em; color: #222; }
img { max-width: 100%; height: auto; }
figure { margin: 1.5em 0; }
figcaption { color: #555; max-width: 46em; }
table { border-collapse: collapse; margin: 1em 0; }
td { border-bottom: 1px solid #ddd; padding: .2em 1em .2em 0; text-align: left; }
h2 { border-top: 2px solid #222; padding-top: .5em; margin-top: 2em; overflow-wrap: anywhere; }
"""


class Picture(NamedTuple):
    """A PNG beside the page, and how to read it."""

    file: str
    title: str
    caption: str


class Section(NamedTuple):
    """What there is on one layer, or on all of them."""

    title: str
    numbers: Sequence[Number]
    pictures: Sequence[Picture]
    notes: Sequence[str]


def html_page(title: str, lines: Sequence[str], sections: Sequence[Section]) -> str:
    """Return the page's text; everything given is escaped."""
    body = [f"<h1>{escape(title)}</h1>", *(f"<p>{escape(line)}</p>" for line in lines)]
    for section in sections:
        body.append(f"<h2>{escape(section.title)}</h2>")
        if section.numbers:
            rows = "\n".join(
                f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in section.numbers
            )
            body.append(f"<table>\n{rows}\n</table>")
        body += [
            f'<figure>\n<img src="{escape(picture.file)}" alt="{escape(picture.title)}">\n'
            f"<figcaption>{escape(picture.caption)}</figcaption>\n</figure>"
            for picture in section.pictures
        ]
        body += [f"<p>{escape(note)}</p>" for note in section.notes]
    head = [
        '<meta charset="utf-8">',
        f'<meta name="generator" content="{GENERATOR}">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
    ]
    whole = ["<!doctype html>", '<html lang="en">', "<head>", *head, "</head>", "<body>", *body, "</body>", "</html>"]
    return "\n".join(whole) + "\n"
