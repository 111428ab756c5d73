"""The table of a run, and docs/benchmarks.md."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from bench.measuring import Row

LIBRARIES = ("apache-airflow", "polars", "duckdb", "deltalake", "pyarrow", "mlflow", "scikit-learn")
HEADER = "| what | reference | ours, s | reference, s | ratio, median (min–max), n | our peak MiB | target |"


def _spread(values: Sequence[float], digits: str = ".2f") -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:{digits}} ({low:{digits}}–{high:{digits}})"


def line(row: Row) -> str:
    """A row of the table."""
    ratio, theirs = "–", "–"
    if row.theirs:
        kind = "" if row.unit == "seconds" else f" of {row.unit}"
        if row.most_more is None:
            ratio = f"{_spread(row.ratios)}x {'speed' if row.as_speed else 'cost'}{kind}"
        else:
            ratio = f"{_spread(row.differences, '+.2f')} s more{kind}"
        ratio += f", n={len(row.ours)}"
        theirs = _spread([cost.seconds for cost in row.theirs])
    met = {True: "met", False: "**missed**", None: ""}[row.met]
    ours = _spread([cost.seconds for cost in row.ours])
    if not row.theirs:
        ours += f", n={len(row.ours)}"
    peak = f"{max(cost.peak for cost in row.ours):.0f}" if row.ours[0].peak else "–"
    what = f"{row.what} ({row.note})" if row.note else row.what
    return f"| {what} | {row.reference or '–'} | {ours} | {theirs} | {ratio} | {peak} | {row.target} {met} |"


def machine() -> str:
    """The machine and the versions, in a sentence."""
    model = next(
        (
            text.partition(":")[2].strip()
            for text in Path("/proc/cpuinfo").read_text().splitlines()
            if text.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return (
        f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB of memory, Python {platform.python_version()}, "
        f"{libraries}"
    )


@dataclass(frozen=True)
class Measured:
    """The lines of one benchmark, as they were measured last.

    :param when: the day, ``2026-11-21``.
    :param load: the machine's load (processes that want to run) when it began, over a minute; its own two
        processes at most come after that.
    """

    lines: Sequence[str]
    when: str
    load: float


def remember(folder: Path, name: str, lines: Sequence[str], load: float) -> None:
    """Put what one benchmark measured in the place of what it measured before, and write the document anew.

    ``benchmarks.json`` keeps the lines of all; ``benchmarks.md`` shows them. So a part can be measured again
    without the whole table, which takes hours.
    """
    kept = folder / "benchmarks.json"
    known = json.loads(kept.read_text()) if kept.exists() else {}
    known[name] = asdict(Measured(lines, str(datetime.date.today()), round(load, 1)))
    kept.write_text(json.dumps(dict(sorted(known.items())), indent=1, ensure_ascii=False) + "\n")
    found = {name: Measured(**parts) for name, parts in known.items()}
    (folder / "benchmarks.md").write_text(document(found))


def document(found: Mapping[str, Measured]) -> str:
    """docs/benchmarks.md around the lines of all benchmarks."""
    lines = [line for measured in found.values() for line in measured.lines]
    when = [f"{name} {one.when} ({one.load:.1f})" for name, one in found.items()]
    return "\n".join(
        [
            "# Benchmarks",
            "",
            "`make bench` prints this table; `make bench ONLY=predict ROWS=1000000 N=1` a part of it, and with",
            "`WRITE=1` puts it here. Every row compares us with a named reference on the same generated data (with",
            "a seed) in the same run, the two taking turns; what is shown is the ratio. Seconds are wall-clock time",
            "of whole processes, start and imports included; the peak is the resident memory of the largest process.",
            "A row without a reference says what its size costs.",
            "",
            f"Machine: {machine()}.",
            "",
            f"Measured, with the machine's load before it: {', '.join(when)}.",
            "",
            HEADER,
            "| --- | --- | --- | --- | --- | --- | --- |",
            *lines,
            "",
        ]
    )
