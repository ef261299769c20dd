"""The performance of what is served as one page of HTML that needs nothing but itself: to be mailed, or kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from warehouse.files import write_atomic

Shown = str | Sequence[Mapping[str, str]]
"""A picture (``data:`` URI), or the rows of a table."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1000px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; margin-bottom: 0; } h2 { font-size: 1.15em; margin: 2em 0 .3em; }
p.market { margin: .2em 0 1em; color: #666; } p.market b { color: #b00; }
table { border-collapse: collapse; font-size: 13px; margin: .5em 0; }
th { text-align: left; border-bottom: 2px solid #999; } th, td { padding: .15em .8em .15em 0; }
td { border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums; vertical-align: top; }
img { max-width: 100%; display: block; margin: .5em 0; } div.wide { overflow-x: auto; }
"""


def write_report(
    path: Path,
    market: str,
    facts: Mapping[str, str],
    sections: Sequence[tuple[str, str, str | Sequence[Mapping[str, str]]]],
) -> None:
    """Write the page, whole or not at all.

    Parameters
    ----------
    market : what market the numbers are of, and whether it is made up
    facts : a line each below the title
    sections : title, a paragraph, and what is shown

    Raises
    ------
    Unavailable
        When the disk refuses.
    """
    head = "".join(f"<li>{escape(name)}: {escape(value)}</li>" for name, value in facts.items())
    body = "".join(_section(*section) for section in sections)
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Tidemill: served performance</title>'
        f"<style>{_STYLE}</style><h1>What the served models are worth</h1>"
        f'<p class="market"><b>{escape(market)}</b></p><ul>{head}</ul>{body}</html>\n'
    )
    write_atomic(path, page.encode())


def _section(title: str, text: str, shown: Shown) -> str:
    inner = f'<img alt="{escape(title)}" src="{escape(shown)}">' if isinstance(shown, str) else _table(shown)
    return f"<h2>{escape(title)}</h2><p>{escape(text)}</p>{inner}"


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    if not rows:
        return "<p>none</p>"
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    lines = ("".join(f"<td>{escape(cell)}</td>" for cell in row.values()) for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(f"<tr>{line}</tr>" for line in lines)}</table></div>'
