"""The verdict: the decision with every number it rests on, and all that is needed to compute it again.

Equal rows, models, gates, seed and resamples give an equal verdict, byte for byte. The one thing that a
machine decides is a measured latency; it stands under ``measured``, and given back to the step
(``EvaluateArguments.measured``) it is not measured again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from airflow_ml_provider import __version__
from airflow_ml_provider.contract.brief import shortened
from airflow_ml_provider.steps.judgement import LISTED_RULES
from airflow_ml_provider.steps.rules import LONGEST_VALUE

if TYPE_CHECKING:
    from airflow_ml_provider.contract.arguments import EvaluateArguments
    from airflow_ml_provider.steps.behaviour import Line
    from airflow_ml_provider.steps.judgement import Group, Judgement
    from airflow_ml_provider.steps.measurement import Measured
    from airflow_ml_provider.steps.metrics import Estimate
    from airflow_ml_provider.steps.versions import Registered

# So many groups are listed in the verdict, which travels through Airflow; the report has more.
_LISTED_GROUPS = 40
# So many behavioural tests that failed say all that they have to.
_FULL_MESSAGES, _LONGEST_TEXT = 8, 120


def decide(judgements: Sequence[Judgement], lines: Sequence[Line]) -> str:
    """``promote`` if every gate passed and every behavioural test did, else ``reject``."""
    passed = all(each.passed for each in judgements) and all(each.passed for each in lines)
    return "promote" if passed else "reject"


def verdict_of(
    arguments: EvaluateArguments,
    measured: Measured,
    judgements: Sequence[Judgement],
    *,
    candidate: Registered,
    champion: Registered | None,
    table: tuple[str, int],
    partitions: str,
    seed: int,
    lines: Sequence[Line] = (),
    guardrails: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The verdict's document.

    :param table: the name and version of the table that was judged on.
    :param lines: the outcomes of the behavioural tests.
    """
    overall = measured.overall
    rules = max(1, LISTED_RULES // max(1, len(judgements)))
    return {
        "decision": decide(judgements, lines),
        "model": candidate.document(),
        "champion": champion and champion.document(),
        "rows": overall.rows,
        "positives": overall.positives,
        "metrics": documents(overall.candidate),
        "champion_metrics": documents(overall.champion),
        "differences": documents(overall.differences),
        "gates": [
            {**judgement.document(rules), "terms": msgspec.to_builtins(judgement.gate)}
            for judgement in judgements
        ],
        "behaviour": _tests(lines),
        "measured": dict(guardrails or {}),
        "slices": [_slice(group) for group in _listed(measured.groups)],
        "seed": seed,
        "resamples": measured.resamples,
        "asked_resamples": arguments.resamples,
        "table": table[0],
        "version": table[1],
        "partitions": partitions,
        "made_by": {"airflow-ml-provider": __version__, "numpy": np.__version__},
    }


def canonical(document: Mapping[str, Any]) -> bytes:
    """The document as JSON, in the one form that is kept and compared: sorted keys, UTF-8.

    :raises ValueError: it holds a number that JSON does not have.
    """
    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode("utf-8", errors="backslashreplace")


def documents(estimates: Mapping[str, Estimate] | None) -> dict[str, Any] | None:
    """Estimates by name, as they stand in a verdict."""
    return None if estimates is None else {name: found.document() for name, found in estimates.items()}


def failures(judgements: Sequence[Judgement], lines: Sequence[Line]) -> list[str]:
    """Why a candidate is rejected, one line each."""
    gates = [f"{each.gate}: {each.reason}" for each in judgements if not each.passed]
    return gates + [f"{line.text}: {line.message}" for line in lines if not line.passed]


def _tests(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """The outcomes of behavioural tests; the first failures say all, the others their beginning."""
    failed = [line for line in lines if not line.passed]
    return [
        {
            **line.document(),
            "text": shortened(line.text, _LONGEST_TEXT),
            "message": line.message
            if line in failed[:_FULL_MESSAGES]
            else shortened(line.message, _LONGEST_TEXT),
        }
        for line in lines
    ]


def _listed(groups: Mapping[str, Sequence[Group]]) -> list[Group]:
    share = _LISTED_GROUPS // max(1, len(groups))
    return [group for of_column in groups.values() for group in of_column[:share]]


def _slice(group: Group) -> dict[str, Any]:
    found = group.comparison
    return {
        "column": group.column,
        "value": None if group.value is None else shortened(group.value, LONGEST_VALUE),
        "rows": found.rows,
        "positives": found.positives,
        "roc_auc": found.candidate["roc_auc"].document(),
        "difference": found.differences["roc_auc"].document() if found.differences else None,
    }
