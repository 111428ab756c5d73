"""Figures for reports: one style, and SVG whose colours follow the reader's light or dark page.

Nothing here touches pyplot or matplotlib's global settings, so a user's own figures are left alone.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Draw with these and no others: in a report each becomes a CSS variable that has a dark variant too.
INK, MUTED, GRID = "#1c2530", "#5b6776", "#d9dee5"
BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "#2563c9", "#d9731a", "#17806d", "#c8372d", "#7a4fbf", "#9aa5b1"
PALETTE = {
    "ink": INK, "muted": MUTED, "grid": GRID, "blue": BLUE, "orange": ORANGE, "green": GREEN, "red": RED,
    "purple": PURPLE, "grey": GREY,
}  # fmt: skip

STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": GREY,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "axes.prop_cycle": cycler(color=[BLUE, ORANGE, GREEN, PURPLE, RED, GREY]),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.8,
    "patch.linewidth": 0,
    "savefig.facecolor": "none",
    "svg.fonttype": "none",  # text stays text: it can be selected, searched and read aloud
    "svg.hashsalt": "airflow-ml-provider",
    "text.color": INK,
    "text.parse_math": False,  # a column named "a$b$" is shown as it is
    "xtick.color": GREY,
    "xtick.labelcolor": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.color": GREY,
    "ytick.labelcolor": MUTED,
    "ytick.labelsize": 8.5,
}

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
# Characters that XML cannot hold, but that the name of a category can.
_NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


@contextmanager
def drawing(
    *, rows: int = 1, columns: int = 1, width: float = 9.6, height: float = 3.4
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure and its axes, row by row, in the reports' style; draw inside the ``with``.

    ::

        with drawing(columns=2) as (figure, (left, right)):
            left.plot(x, y, color=BLUE, label="candidate")
        report.figure(figure, "ROC curve")

    :param width: in inches; a report shows 9.6 over its full width.
    :param height: of the whole figure, in inches.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        grid = figure.subplots(rows, columns, squeeze=False)
        yield figure, [axes for line in grid for axes in line]


def as_svg(figure: Figure, *, prefix: str, label: str) -> str:
    """The figure as an ``<svg>`` element to put into a page; equal figures give equal text.

    :param prefix: makes the ids of this figure its own among all the figures of the page.
    :param label: what it shows, for those who cannot see it.
    """
    raw = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(raw, format="svg", metadata={"Date": None})
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _XLINK)
    text = _NO_XML.sub("\N{REPLACEMENT CHARACTER}", raw.getvalue().decode())
    root = ET.fromstring(text)  # noqa: S314 - our own drawing, written a few lines above
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    for element in root.iter():
        _localise(element, prefix)
    width = float(root.attrib.pop("width").removesuffix("pt"))
    root.attrib.pop("height")
    # Points to CSS pixels: drawn at its own size on a wide screen, narrower on a narrow one.
    root.attrib.update({"role": "img", "aria-label": label, "style": f"max-width: {width * 4 / 3:.0f}px"})
    return ET.tostring(root, encoding="unicode")


def _localise(element: ET.Element, prefix: str) -> None:
    attributes = element.attrib
    if "id" in attributes:
        attributes["id"] = f"{prefix}-{attributes['id']}"
    for name in (f"{{{_XLINK}}}href", "href"):
        if attributes.get(name, "").startswith("#"):
            attributes[name] = f"#{prefix}-{attributes[name][1:]}"
    for name in ("clip-path", "style"):
        if "url(#" in attributes.get(name, ""):
            attributes[name] = attributes[name].replace("url(#", f"url(#{prefix}-")
    style = attributes.get("style", "")
    for name, colour in PALETTE.items():
        style = style.replace(colour, f"var(--{name})")
    if style:
        attributes["style"] = style
