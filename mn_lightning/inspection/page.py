"""A page that can be read without a network: no scripts, style sheets or fonts from elsewhere."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from mn_lightning.inspection.numbers import Number

GENERATOR = "mn-lightning inspect"

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 800px; margin: 2em auto; padding: 0 8px; color: #222; }
img { width: 100%; height: auto; }
figure { margin: 1.5em 0; }
figcaption { color: #555; }
table { border-collapse: collapse; margin: 1em 0; }
td { border-bottom: 1px solid #ddd; padding: .2em 1em .2em 0; text-align: left; }
h1, h2, p, li { overflow-wrap: anywhere; }
h2 { border-top: 2px solid #222; padding-top: .5em; margin-top: 2em; }
.up { font-size: 14px; }
"""


class Picture(NamedTuple):
    """A PNG beside the page, and how to read it."""

    file: str
    title: str
    caption: str


class Section(NamedTuple):
    """The part of the page about one layer, or about all of them."""

    title: str
    numbers: Sequence[Number]
    pictures: Sequence[Picture]
    notes: Sequence[str]


def html_page(title: str, lines: Sequence[str], sections: Sequence[Section]) -> str:
    """Return the page's HTML; all arguments are escaped."""
    body = [f'<h1 id="top">{escape(title)}</h1>', *(f"<p>{escape(line)}</p>" for line in lines)]
    body += ["<nav><ul>", *_contents(sections), "</ul></nav>"]
    for number, section in enumerate(sections):
        body.append(f'<h2 id="{number}">{escape(section.title)}</h2>')
        if section.numbers:
            rows = "\n".join(
                f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in section.numbers
            )
            body.append(f"<table>\n{rows}\n</table>")
        body += [
            f'<figure id="{number}-{place}">\n<img src="{escape(picture.file)}" alt="{escape(picture.title)}">\n'
            f"<figcaption>{escape(picture.caption)}</figcaption>\n</figure>"
            for place, picture in enumerate(section.pictures)
        ]
        body += [f"<p>{escape(note)}</p>" for note in section.notes]
        body.append('<p class="up"><a href="#top">to the top</a></p>')
    head = [
        '<meta charset="utf-8">',
        f'<meta name="generator" content="{GENERATOR}">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
    ]
    whole = ["<!doctype html>", '<html lang="en">', "<head>", *head, "</head>", "<body>", *body, "</body>", "</html>"]
    return "\n".join(whole) + "\n"


def _contents(sections: Sequence[Section]) -> list[str]:
    """Return the items of a list: the sections, and their pictures."""
    items = []
    for number, section in enumerate(sections):
        pictures = [
            f'<li><a href="#{number}-{place}">{escape(picture.title)}</a></li>'
            for place, picture in enumerate(section.pictures)
        ]
        inner = f"\n<ul>\n{chr(10).join(pictures)}\n</ul>" if len(pictures) > 1 else ""
        items.append(f'<li><a href="#{number}">{escape(section.title)}</a>{inner}</li>')
    return items
