"""``python -m bench``: run the benchmarks and print their table.

Each module of ``bench/rows`` is one benchmark. A table row is printed as soon as it is measured.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import signal
import sys
import tempfile
from pathlib import Path

from bench import rows as benchmarks
from bench.scene import REPOSITORY, Scene
from bench.table import HEADER, line, remember


def main() -> int:
    """Measure, print, and write the document if asked."""
    names = sorted(module.name for module in pkgutil.iter_modules(benchmarks.__path__))
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help=", ".join(names))
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--n", type=int, default=3, help="pairs of runs")
    parser.add_argument("--folder", type=Path, help="keep the data here; a temporary folder otherwise")
    parser.add_argument("--write", action="store_true", help="put it into docs/benchmarks.md")
    options = parser.parse_args()
    unknown = set(options.only) - set(names)
    if unknown:
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    # Ended in the middle, the servers of a benchmark end too, and its data is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    print(HEADER, flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        for name in options.only or names:
            module = importlib.import_module(f"bench.rows.{name}")
            load, lines = os.getloadavg()[0], list[str]()
            for row in module.rows(Scene(options.rows, options.n, folder)):
                lines.append(line(row))
                print(lines[-1], flush=True)
                if options.write:
                    remember(REPOSITORY / "docs", name, lines, load)
    return 0


if __name__ == "__main__":
    sys.exit(main())
