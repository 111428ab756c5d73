"""The end of every evaluation: gates on what was measured, the verdict, its page, and where they are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_ml_provider.contract.brief import shortened
from airflow_ml_provider.steps import evaluation_report, origin
from airflow_ml_provider.steps.changes import changes
from airflow_ml_provider.steps.context import Outcome, StepContext
from airflow_ml_provider.steps.judgement import judge
from airflow_ml_provider.steps.metrics import Estimate
from airflow_ml_provider.steps.verdict import canonical, failures, verdict_of

if TYPE_CHECKING:
    from airflow_ml_provider.contract.arguments import EvaluateArguments
    from airflow_ml_provider.steps.behaviour import Line
    from airflow_ml_provider.steps.importance import Importance
    from airflow_ml_provider.steps.measurement import Measured
    from airflow_ml_provider.steps.pinned_tables import PinnedTable
    from airflow_ml_provider.steps.reports import Report
    from airflow_ml_provider.steps.tracking import TrackedRun
    from airflow_ml_provider.steps.versions import Registered

# The verdict and the summary travel through Airflow; the report has all.
_LISTED_CHANGES, _LONGEST_SUMMARY = 40, 1_500


@dataclass(frozen=True)
class Contestants:
    """Who is compared with whom.

    :param champion: None before there is one.
    :param incomparable: why the champion cannot be scored on these rows, if it cannot.
    """

    candidate: Registered
    champion: Registered | None
    incomparable: str = ""


@dataclass(frozen=True)
class Examined:
    """What was found out about the contestants.

    :param table: what they were compared on.
    :param facts: for the top of the page.
    :param guardrails: measured ones by name.
    :param lines: outcomes of behavioural tests.
    :param sections: further sections of the page.
    :param further: what else stands in the verdict.
    """

    table: PinnedTable
    partitions: str
    measured: Measured
    facts: Mapping[str, Any]
    guardrails: Mapping[str, float] = field(default_factory=dict)
    lines: Sequence[Line] = ()
    importance: Sequence[Importance] = ()
    sections: Sequence[Callable[[Report], None]] = ()
    further: Mapping[str, Any] = field(default_factory=dict)


def conclude(
    step: StepContext,
    arguments: EvaluateArguments,
    tracked: TrackedRun,
    contestants: Contestants,
    found: Examined,
) -> Outcome:
    """Judge, and keep verdict and report with the step and with MLflow."""
    measured, candidate, champion = found.measured, contestants.candidate, contestants.champion
    judgements = [
        judge(gate, measured.overall, measured.groups, contestants.incomparable, dict(found.guardrails))
        for gate in arguments.gates
    ]
    verdict = verdict_of(
        arguments,
        measured,
        judgements,
        candidate=candidate,
        champion=champion,
        table=(found.table.name, found.table.version),
        partitions=found.partitions,
        seed=step.spec.seed,
        lines=found.lines,
        guardrails=found.guardrails,
    )
    changed = changes(step, champion, candidate) if champion else []
    verdict |= {
        "changes": changed[:_LISTED_CHANGES],
        "changes_left_out": max(0, len(changed) - _LISTED_CHANGES),
        **found.further,
    }
    versus = f"champion {champion.version}" if champion else "no champion"
    page = evaluation_report.render(
        evaluation_report.Evaluation(
            title=f"{candidate} against {versus}",
            promote=verdict["decision"] == "promote",
            facts={
                "candidate": str(candidate),
                "champion": str(champion) if champion else "none yet",
                **found.facts,
                "table": f"{found.table.name}@{found.table.version}",
                "partitions": found.partitions or "all",
                "resamples": measured.resamples,
            },
            measured=measured,
            judgements=judgements,
            importance=found.importance,
            lines=found.lines,
            changes=changed,
            extra_sections=found.sections,
        )
    )
    _keep(step, tracked, measured, verdict, page)
    overall, failed = measured.overall, failures(judgements, found.lines)
    return Outcome(
        model=candidate.reference(),
        verdict=verdict,
        metrics=_values(overall.candidate),
        summary={
            "decision": verdict["decision"],
            "candidate": str(candidate),
            "champion": str(champion) if champion else "none yet",
            "rows": verdict["rows"],
            "roc_auc": evaluation_report.interval(overall.candidate["roc_auc"]),
            **({"failed gates": shortened("; ".join(failed), _LONGEST_SUMMARY)} if failed else {}),
        },
        links={
            "Report": step.tracker.run_url(tracked, "report.html"),
            "MLflow run": step.tracker.run_url(tracked),
        },
        mlflow_run_id=tracked.run_id,
    )


def _keep(
    step: StepContext, tracked: TrackedRun, measured: Measured, verdict: dict[str, Any], page: bytes
) -> None:
    step.keep_document("verdict.json", canonical(verdict))
    step.keep_document("report.html", page)
    path = step.scratch / "report.html"
    path.write_bytes(page)
    step.tracker.log_file(tracked.run_id, path)
    origin.log_document(step, tracked.run_id, "verdict.json", verdict)
    overall = measured.overall
    numbers = _values(overall.candidate)
    numbers |= _values(overall.champion, "champion_") | _values(overall.differences, "difference_")
    step.tracker.log(tracked.run_id, metrics=numbers)


def _values(estimates: Mapping[str, Estimate] | None, prefix: str = "") -> dict[str, float]:
    named = {prefix + name: found.value for name, found in (estimates or {}).items()}
    return {name: value for name, value in named.items() if value is not None}
