"""What a benchmark is given: its size, how often to repeat, a folder for its data, and how to run a step."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.measuring import Cost, run

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Scene:
    """:param rows: 10 million unless asked otherwise; a benchmark that is of another size says so.

    :param repeats: pairs of runs.
    :param folder: kept between benchmarks of a run, so that data is generated once.
    """

    rows: int
    repeats: int
    folder: Path

    @property
    def store(self) -> Path:
        """Our store."""
        return self.folder / "store"

    def step(
        self, verb: str, arguments: Mapping[str, Any], *, key: str, env: Mapping[str, str] | None = None,
        code: Path | None = None, tracking: str = "",
    ) -> Cost:  # fmt: skip
        """Run a step by its spec, in a process of its own, as a compute does. A result of before is removed."""
        place = self.store / "runs" / key
        place.mkdir(parents=True, exist_ok=True)
        (place / "result.json").unlink(missing_ok=True)
        spec = {
            "protocol": 1, "verb": verb, "store": self.store.as_uri(), "arguments": dict(arguments),
            "step_key": key, "tracking": {"uri": tracking, "experiment": "bench"},
            "code": {"roots": [str(code)] if code else []},
        }  # fmt: skip
        (place / "spec.json").write_text(json.dumps(spec))
        command = [
            sys.executable,
            "-m",
            "airflow_ml_provider.steps",
            verb,
            "--spec",
            str(place / "spec.json"),
        ]
        return run(command, env={**os.environ, **(env or {})}, cwd=REPOSITORY)

    def python(self, script: Path | str, *arguments: object, env: Mapping[str, str] | None = None) -> Cost:
        """Run a reference: a script file, or a program text."""
        given = [str(script)] if isinstance(script, Path) else ["-c", script]
        return run(
            [sys.executable, *given, *map(str, arguments)], env={**os.environ, **(env or {})}, cwd=REPOSITORY
        )
