"""The small tables a chapter shows about itself, in Jupyter, on the page and in plain Python."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Box:
    """A titled table that Jupyter displays when it is the last value of a cell."""

    title: str
    """What the table is about."""
    rows: list[list[str]]
    """Cells, row by row; without a header the first cell of a row names it."""
    header: list[str] | None = None
    """Names of the columns."""
    record: dict | None = None
    """Plain JSON types, kept in the metadata of the notebook's output under the key `hybrid`."""

    def __repr__(self) -> str:
        lines = [self.title, *("  ".join(row) for row in [self.header or [], *self.rows] if row)]
        return "\n".join(lines)

    def _repr_mimebundle_(self, **_) -> tuple[dict, dict]:
        data = {"text/plain": repr(self), "text/html": self.html()}
        return data, {} if self.record is None else {"hybrid": self.record}

    def html(self) -> str:
        """The table as HTML; the book's style sheet knows its class, Jupyter draws it plainly."""
        head = ""
        if self.header:
            head = "<tr>" + "".join(f'<th scope="col">{escape(c)}</th>' for c in self.header) + "</tr>"
        body = "".join(
            "<tr>"
            + "".join(
                f'<th scope="row">{escape(cell)}</th>'
                if i == 0 and len(row) > 1
                else f"<td>{_code(cell) if row[0] == 'Command' else escape(cell)}</td>"
                for i, cell in enumerate(row)
            )
            + "</tr>"
            for row in self.rows
        )
        return (
            f'<table class="hybrid-box"><caption>{escape(self.title)}</caption>'
            f"<thead>{head}</thead><tbody>{body}</tbody></table>"
        )


def show(rows, name: str | None = None):
    """A plain table for a page, without pandas' index.

    Args:
        rows: a frame, a list of rows, or label -> row.
        name: header of the first column that holds the labels; needed with labels.
    """
    import pandas
    from IPython.display import HTML

    if name:
        rows = [{name: label} | row for label, row in rows.items()]
    return HTML(pandas.DataFrame(rows).to_html(index=False, border=0, justify="left"))


def chapter_command(chapter: str, parameters: dict) -> str:
    """The command line that executes a chapter with these parameters."""
    words = ["python", "-m", "hybrid", "notebook", chapter]
    for name, value in parameters.items():
        text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        words += ["-p", f"{name}={text}"]
    return shlex.join(words)


def duration(seconds: float) -> str:
    """Seconds in the units a reader plans with."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def moment(date: str) -> str:
    """An ISO 8601 date and time in UTC, as a reader writes it."""
    return date.replace("T", " ").replace("+00:00", " UTC")


def memory(size: int) -> str:
    """Bytes in gigabytes of 10^9 bytes."""
    return f"{size / 1e9:.1f} GB"


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"
