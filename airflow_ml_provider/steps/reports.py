"""Reports for people: one HTML page that needs nothing else, neither scripts nor the network.

It reads the same in a browser, in a mail attachment and in the frame of MLflow's artifact viewer. Equal
content gives equal bytes, so a report can be compared and kept by its digest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_ml_provider import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Belt and braces: even a mistake in here could not make the page run or fetch anything.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Badge:
    """A short word with a colour, for a cell of a table: ``Badge("passed", good=True)``.

    :param good: green for true, red for false, grey for None.
    """

    text: str
    good: bool | None = None


class Share(float):
    """A number from 0 to 1 that is shown in per cent."""


class Report:
    """A page that is built from top to bottom; every text is escaped.

    ::

        report = Report("Drift of flight_delays", "2013-06-13 against training")
        report.verdict("Drifted", good=False, details=["score PSI 0.41 is above 0.25"])
        report.facts({"rows": 899, "model": "flight_delays/3"})
        report.heading("Features")
        report.table(["feature", "PSI"], [["temp", 0.31], ["dest", 0.02]], "Population stability index")
        report.figure(figure, "Score distribution")
        page = report.html()
    """

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title = title
        self.subtitle = subtitle
        self._parts: list[str] = []
        self._figures = 0

    def verdict(self, text: str, good: bool | None, details: Iterable[str] = ()) -> None:
        """The banner: what was decided, in one line, and why.

        :param good: green for true, red for false, grey where nothing could be decided.
        """
        reasons = "".join(f"<li>{escape(detail)}</li>" for detail in details)
        below = f"<ul>{reasons}</ul>" if reasons else ""
        self._parts.append(
            f'<section class="verdict {_tone(good)}"><strong>{escape(text)}</strong>{below}</section>'
        )

    def heading(self, text: str) -> None:
        """A heading over what follows."""
        self._parts.append(f"<h2>{escape(text)}</h2>")

    def text(self, text: str) -> None:
        """Paragraphs, parted by empty lines."""
        self._parts += [f"<p>{escape(part.strip())}</p>" for part in text.split("\n\n") if part.strip()]

    def facts(self, facts: Mapping[str, Any]) -> None:
        """Names and values, side by side."""
        cells = "".join(
            f"<div><dt>{escape(str(name))}</dt><dd>{_cell(value)}</dd></div>" for name, value in facts.items()
        )
        self._parts.append(f"<dl>{cells}</dl>")

    def table(self, headers: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> None:
        """A table; columns of numbers are aligned on the right. Cells may be a :class:`Badge`.

        :raises ValueError: a row has another number of cells than there are headers.
        """
        lines = [list(row) for row in rows]
        if wrong := next((line for line in lines if len(line) != len(headers)), None):
            raise ValueError(f"a row of {len(wrong)} cells in a table of {len(headers)} columns: {wrong}")
        kinds = [
            ' class="number"' if _is_numeric(line[n] for line in lines) else "" for n in range(len(headers))
        ]
        head = "".join(f"<th{kind}>{escape(name)}</th>" for name, kind in zip(headers, kinds, strict=True))
        cells = (
            "".join(f"<td{kind}>{_cell(value)}</td>" for value, kind in zip(line, kinds, strict=True))
            for line in lines
        )
        body = "".join(f"<tr>{line}</tr>\n" for line in cells)
        said = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        self._parts.append(
            f"<figure>{said}<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></figure>"
        )

    def figure(self, figure: Figure, caption: str) -> None:
        """A matplotlib figure, best drawn in :func:`airflow_ml_provider.steps.figures.drawing`."""
        from airflow_ml_provider.steps.figures import as_svg

        self._figures += 1
        drawn = as_svg(figure, prefix=f"f{self._figures}", label=caption)
        self._parts.append(
            f'<figure class="drawing">{drawn}<figcaption>{escape(caption)}</figcaption></figure>'
        )

    def html(self) -> bytes:
        """The whole page, UTF-8."""
        style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
        below = f"<p>{escape(self.subtitle)}</p>" if self.subtitle else ""
        page = [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(self.title)}</title>",
            f"<style>\n{style}</style></head>",
            f"<body><main><header><h1>{escape(self.title)}</h1>{below}</header>",
            *self._parts,
            f"<footer>airflow-ml-provider {escape(__version__)}</footer></main></body></html>",
        ]
        # A lone surrogate, as undecodable file names have, is no UTF-8; shown, not fatal.
        return ("\n".join(page) + "\n").encode("utf-8", errors="backslashreplace")


def format_value(value: Any) -> str:
    """A value as people read it: 336,776 - 0.7618 - yes - 2013-06-01 12:00 UTC - a dash for nothing."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Share):
        return f"{value:.1%}"
    if isinstance(value, float):
        return _format_float(value)
    if isinstance(value, datetime):
        zone = f" {value.tzname()}" if value.tzinfo else ""
        return f"{value:%Y-%m-%d %H:%M}{zone}"
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, (list, tuple)):
        return ", ".join(format_value(part) for part in value)
    return str(value)


def _format_float(value: float) -> str:
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    if size >= 1e15 or (0 < size < 1e-4):
        return f"{value:.2e}"
    if size >= 1000:
        return f"{value:,.0f}"
    # One number of decimals for all values below ten, so that a column of them lines up.
    return f"{value:.4f}" if size < 10 else f"{value:.2f}"


def _cell(value: Any) -> str:
    if isinstance(value, Badge):
        return f'<span class="badge {_tone(value.good)}">{escape(value.text)}</span>'
    return escape(format_value(value))


def _is_numeric(values: Iterable[Any]) -> bool:
    present = [value for value in values if value is not None]
    return bool(present) and all(
        isinstance(value, (int, float)) and not isinstance(value, bool) for value in present
    )


def _tone(good: bool | None) -> str:
    return "plain" if good is None else "good" if good else "bad"
