"""Should the model be trained again? The rules of a Retrain, on what a monitor step has measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import polars as pl

from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.models import Model
from airflow_ml_provider.contract.partitions import parse_partitions, start_of
from airflow_ml_provider.contract.retraining import Reason, Request, Retrain
from airflow_ml_provider.contract.tables import Table
from airflow_ml_provider.registry.ledger import Ledger
from airflow_ml_provider.registry.retraining import Asked, Requests
from airflow_ml_provider.steps import versions

if TYPE_CHECKING:
    from airflow_ml_provider.contract.documents import ModelVersion
    from airflow_ml_provider.steps.context import StepContext
    from airflow_ml_provider.steps.metrics import Estimate
    from airflow_ml_provider.steps.monitor_labels import Performance
    from airflow_ml_provider.steps.pinned_tables import PinnedTable

_MOST_SAID = 3


@dataclass(frozen=True)
class Finding:
    """What the rules are judged by.

    :param model: the version that predicted the newest partition asked for.
    :param partitions: those asked for; ``newest``: the newest of them.
    :param drift: why the verdict is "drifted"; empty if it is not.
    :param performance: of this version's predictions that were looked at; None where no labels were read.
    :param rows: the feature rows that were predicted.
    """

    model: ModelVersion
    partitions: str
    newest: str
    drift: tuple[str, ...]
    performance: Performance | None
    rows: PinnedTable


@dataclass(frozen=True)
class Decision:
    """The reasons for a retraining, and what came of asking for one.

    :param asked: None where there is no reason.
    """

    rules: Retrain
    finding: Finding
    reasons: tuple[Reason, ...]
    asked: Asked | None

    def sentence(self) -> str:
        """In a line, for people."""
        if self.asked is None:
            return "not wanted"
        because = "; ".join(reason.because for reason in self.reasons[:_MOST_SAID])
        if self.asked.request is not None:
            return f"asked for (request {self.asked.request.sequence}): {because}"
        held = self.asked.held_back
        return f"wanted, {held.sentence() if held else 'not asked for'}: {because}"

    def document(self) -> dict[str, Any]:
        """As it stands in the verdict."""
        asked, model = self.asked, self.finding.model
        held = asked.held_back if asked else None
        return {
            "wanted": bool(self.reasons),
            "asked": bool(asked and asked.request),
            "request": asked.request.sequence if asked and asked.request else None,
            "held_back": held._asdict() if held else None,
            "reasons": [msgspec.to_builtins(reason) for reason in self.reasons],
            "model": {"name": model.name, "version": model.version},
            "newest": self.finding.newest,
            "rules": msgspec.to_builtins(self.rules),
        }


def decide(step: StepContext, rules: Retrain, finding: Finding, *, of: str) -> Decision:
    """Judge the rules and, if one holds, ask for a retraining.

    :param of: the model that is to be trained again; empty for that of the predictions.
    :raises ConfigError: the predictions are another model's.
    """
    model = finding.model
    if of and of != model.name:
        raise ConfigError(
            f"a retraining of {of!r} was to be decided, and {finding.newest} was predicted by {model.name!r}",
            todo=f"monitor the predictions of {of!r}, or give model={model.name!r}",
        )
    found = (
        _drift(rules, finding),
        *_performance(step, rules, finding),
        _new_rows(step, rules, finding) if rules.new_rows is not None else None,
    )
    reasons = tuple(reason for reason in found if reason is not None)
    if not reasons:
        return Decision(rules, finding, (), None)
    wanted = Request(
        sequence=0,
        model=model.name,
        version=model.version,
        at="",
        newest=finding.newest if _is_time(finding.newest) else "",
        partitions=finding.partitions,
        reasons=reasons,
        step_key=step.key,
        fingerprint=step.spec.fingerprint,
        url=step.spec.run.url or "",
    )
    asked = Requests(step.store, model.name).ask(rules, wanted, datetime.now(UTC).replace(microsecond=0))
    return Decision(rules, finding, reasons, asked)


def _drift(rules: Retrain, finding: Finding) -> Reason | None:
    if not (rules.drift and finding.drift):
        return None
    return Reason("drift", "; ".join(finding.drift[:_MOST_SAID]))


def _performance(step: StepContext, rules: Retrain, finding: Finding) -> list[Reason]:
    estimate = finding.performance.metrics.get("roc_auc") if finding.performance else None
    if finding.performance is None or estimate is None or estimate.value is None:
        return []
    upper = estimate.value if estimate.high is None else estimate.high
    said = f"ROC AUC on {finding.performance.matured:,} matured labels is {_interval(estimate)}"
    numbers = {"roc_auc": estimate.value, "upper": upper, "matured": float(finding.performance.matured)}
    reasons = []
    if rules.min_roc_auc is not None and upper < rules.min_roc_auc:
        because = f"{said}, below {rules.min_roc_auc:g}"
        reasons.append(Reason("min_roc_auc", because, numbers | {"limit": rules.min_roc_auc}))
    if rules.performance_loss is not None:
        evaluated = evaluated_roc_auc(step, finding.model)
        if evaluated is None:
            step.warn(
                f"performance_loss was not judged: the ledger has no evaluation of {finding.model.name}/"
                f"{finding.model.version}; promote it with PromoteOperator"
            )
        elif upper < evaluated - rules.performance_loss:
            because = (
                f"{said}, more than {rules.performance_loss:g} below the {evaluated:.3f} of its evaluation"
            )
            limits = {"evaluated": evaluated, "limit": evaluated - rules.performance_loss}
            reasons.append(Reason("performance_loss", because, numbers | limits))
    return reasons


def evaluated_roc_auc(step: StepContext, model: ModelVersion) -> float | None:
    """The ROC AUC in the verdict by which a version was promoted, None where there is none."""
    store = step.store
    for entry in reversed(Ledger(store, model.name).entries()):
        if entry.version == model.version and entry.verdict_uri.startswith(store.uri + "/"):
            document = store.read_json(store.relative(entry.verdict_uri))
            found = _at(document, "metrics", "roc_auc", "value")
            if isinstance(found, (int, float)):
                return float(found)
    return None


def _new_rows(step: StepContext, rules: Retrain, finding: Finding) -> Reason | None:
    """Rows in partitions after those that the version was trained on.

    :raises ConfigError: the table is not partitioned, or partitions are no times.
    """
    model, share = finding.model, rules.new_rows or 0.0
    registered = versions.find(step, Model(model.name, version=model.version))
    with step.tracker.speaking(f"read run {model.run_id}"):
        trained = step.tracker.client.get_run(model.run_id).data.metrics.get("train_rows")
    last = _last_trained(step, registered.tags) if registered else None
    if last is None or not trained:
        step.warn(
            f"new_rows was not judged: {model.name}/{model.version} does not say which rows it was trained on"
        )
        return None
    table = step.read(rules.count) if rules.count else finding.rows
    by = table.partition_by
    if by is None:
        raise ConfigError(
            f"new_rows counts the rows of partitions, and table {table.name!r} has none",
            todo="name a partitioned table: Retrain(count=Table(...))",
        )
    after, until = start_of(last), start_of(finding.newest)
    new = [value for value in _partitions(table) if after < start_of(value) <= until]
    rows = 0
    if new:
        counted = table.lazy(parse_partitions(new)).select(pl.len()).collect(engine="streaming")
        rows = counted.item()
    if rows <= share * trained:
        return None
    return Reason(
        "new_rows",
        f"{rows:,} rows of {table.name!r} have arrived since {last}, the last partition of the "
        f"{int(trained):,} training rows: {rows / trained:.0%}, more than {share:.0%}",
        {"rows": float(rows), "training_rows": float(trained), "share": rows / trained, "limit": share},
    )


def _last_trained(step: StepContext, tags: Mapping[str, str]) -> str | None:
    """The last partition that a version was trained on; of a whole table, as its version then has them."""
    if tags.get("partitions"):
        return max(parse_partitions(tags["partitions"]).values, key=start_of)
    name, _, version = tags.get("tables", "").partition("@")
    if not version.isdigit():
        return None
    return max(_partitions(step.read(Table(name, version=int(version)))), key=start_of, default=None)


def _partitions(table: PinnedTable) -> list[str]:
    by = table.partition_by
    values = (part.get(by) for part in table.delta.partitions()) if by else ()
    return sorted({str(value) for value in values if value is not None})


def _is_time(partition: str) -> bool:
    try:
        start_of(partition)
    except ConfigError:
        return False
    return True


def _interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def _at(document: Any, *names: str) -> Any:
    for name in names:
        document = document.get(name) if isinstance(document, Mapping) else None
    return document
