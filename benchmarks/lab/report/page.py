"""The page: sections of paragraphs, tables and pictures. Everything that comes from data is escaped."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --good: #1a7f4b; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --good: #5fd39a; --bad: #ff8a80; } }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 70rem;
  background: Canvas; color: CanvasText; }
h1 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
nav ul { columns: 16rem; padding-left: 1.2rem; }
.scroll { overflow-x: auto; }
.scroll:focus-visible, a:focus-visible, summary:focus-visible { outline: 2px solid Highlight; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .4rem 0; }
caption span { display: inline-block; position: sticky; left: 0; max-width: calc(100vw - 2rem); }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap; }
th:first-child { text-align: left; position: sticky; left: 0; background: Canvas; }
thead th { border-bottom: 1px solid var(--line); } tbody tr:nth-child(even) td { background: var(--soft); }
.text { text-align: left; white-space: normal; } td.text { min-width: 16rem; }
.better { color: var(--good); font-weight: 600; } .worse { color: var(--bad); font-weight: 600; }
figure { margin: 1rem 0; } figcaption { font-size: .88rem; }
figure svg { width: 100%; height: auto; min-width: 42rem; max-width: 60rem; }
code { overflow-wrap: anywhere; } .skip { position: absolute; left: -99rem; } .skip:focus { left: 1rem; }
@media (max-width: 40rem) { th:first-child { white-space: normal; min-width: 8rem; max-width: 9rem; } }
"""


@dataclass
class Section:
    """One question of the report."""

    title: str
    blocks: list[str] = field(default_factory=list)
    """HTML."""

    @property
    def anchor(self) -> str:
        """The section's identifier in the page."""
        return "".join(char if char.isalnum() else "-" for char in self.title.lower())

    def add_text(self, *sentences: str) -> None:
        """Add a paragraph."""
        self.blocks.append(f"<p>{html.escape(' '.join(sentences))}</p>")

    def add_command(self, command: str) -> None:
        """Add the command that makes what precedes it again."""
        self.blocks.append(f"<p>Command: <code>{html.escape(command)}</code></p>")

    def add_table(self, header: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> None:
        """Add a table; a cell that starts with ▲ or ▼ is marked as better or worse, and a column of sentences wraps."""
        texts = {column for row in rows for column, cell in enumerate(row) if column and len(cell) > 40}
        head = "".join(
            f'<th scope="col"{_text_mark(n in texts)}>{html.escape(cell)}</th>' for n, cell in enumerate(header)
        )
        body = "".join(f"<tr>{''.join(_cell(cell, n, n in texts) for n, cell in enumerate(row))}</tr>" for row in rows)
        name = html.escape(caption, quote=True)
        self.blocks.append(
            f'<div class="scroll" tabindex="0" role="region" aria-label="{name}"><table>'
            f"<caption><span>{html.escape(caption)}</span></caption>"
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )

    def add_figure(self, svg: str, caption: str) -> None:
        """Add a picture from `figures.save`."""
        name = html.escape(caption, quote=True)
        svg = svg.replace("<svg", f'<svg role="img" aria-label="{name}"', 1)
        box = f'<div class="scroll" tabindex="0" role="region" aria-label="{name}">{svg}</div>'
        self.blocks.append(f"<figure>{box}<figcaption>{html.escape(caption)}</figcaption></figure>")


def _cell(text: str, column: int, is_text: bool) -> str:
    if column == 0:
        return f'<th scope="row">{html.escape(text)}</th>'
    mark = {"▲": ' class="better"', "▼": ' class="worse"'}.get(text[:1], _text_mark(is_text))
    return f"<td{mark}>{html.escape(text)}</td>"


def _text_mark(is_text: bool) -> str:
    return ' class="text"' if is_text else ""


def write_page(path: Path, title: str, summary: str, sections: Sequence[Section]) -> Path:
    """Write the page; it refers to nothing outside itself."""
    links = "".join(f'<li><a href="#{each.anchor}">{html.escape(each.title)}</a></li>' for each in sections)
    parts = "".join(
        f'<section id="{each.anchor}"><h2>{html.escape(each.title)}</h2>{"".join(each.blocks)}</section>'
        for each in sections
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><link rel="icon" href="data:,">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>"
        f'<body><a class="skip" href="#main">Skip to the results</a><header><h1>{html.escape(title)}</h1>'
        f'<p>{html.escape(summary)}</p><nav aria-label="Questions"><ul>{links}</ul></nav></header>'
        f'<main id="main">{parts}</main></body></html>\n',
        encoding="utf-8",
    )
    return path
