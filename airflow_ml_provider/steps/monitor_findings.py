"""What a monitor step found, partition by partition, and the verdict that follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_ml_provider.contract.arguments import MonitorArguments
from airflow_ml_provider.contract.documents import ModelVersion
from airflow_ml_provider.steps.drift import Drift
from airflow_ml_provider.steps.monitor_again import Earlier
from airflow_ml_provider.steps.monitor_labels import Performance
from airflow_ml_provider.steps.profiles import ColumnProfile
from airflow_ml_provider.steps.retraining import Decision

# So many names of features fit into a sentence, and beside another.
_MOST_NAMED, _MOST_BLAMED = 5, 3
# So many reasons fit into a line.
_MOST_SAID = 3


@dataclass(frozen=True)
class PartitionDrift:
    """One partition against the reference of the model that predicted it.

    :param decided: whether it has rows enough for a verdict.
    :param max_share: the share of features beyond which the partition has drifted.
    :param reference: the model's profiles of features and score, by name; ``current``: the partition's.
    """

    partition: str
    model: ModelVersion
    rows: int
    decided: bool
    max_share: float
    score: Drift
    features: tuple[Drift, ...]
    reference: Mapping[str, ColumnProfile] = field(repr=False)
    current: Mapping[str, ColumnProfile] = field(repr=False)

    @property
    def drifted_features(self) -> list[str]:
        """The features that moved, the furthest first."""
        moved = [drift for drift in self.features if drift.drifted]
        return [drift.name for drift in sorted(moved, key=lambda drift: (-drift.relative, drift.name))]

    @property
    def share(self) -> float:
        """The share of the features that moved."""
        return len(self.drifted_features) / len(self.features) if self.features else 0.0

    @property
    def drifted(self) -> bool:
        """Whether the model sees other rows here than it was trained on."""
        return self.decided and (self.score.drifted or self.share > self.max_share)

    def reasons(self) -> list[str]:
        """Why it drifted, as sentences; none if it did not."""
        said = []
        names = self.drifted_features
        if self.decided and self.score.drifted:
            said.append(
                f"the score moved: PSI {self.score.psi:.2f}, usual is up to {self.score.psi_limit:.2f}"
                + (f" (and most of all {', '.join(names[:_MOST_BLAMED])})" if names else "")
            )
        if self.decided and self.share > self.max_share:
            more = ", ..." if len(names) > _MOST_NAMED else ""
            said.append(
                f"{len(names)} of {len(self.features)} features moved, more than {self.max_share:.0%}: "
                f"{', '.join(names[:_MOST_NAMED])}{more}"
            )
        return said


@dataclass(frozen=True)
class Findings:
    """All partitions of a step, and how the predictions turned out.

    :param partitions: at least one, in order.
    :param performance: of all partitions together; None where no labels were asked for.
    :param performance_by: of each partition, those looked at again included.
    :param again: earlier partitions of which more labels have matured; they decide nothing about drift.
    :param retraining: what follows for the model; None where that was not asked.
    """

    arguments: MonitorArguments
    label: str
    partitions: tuple[PartitionDrift, ...]
    performance: Performance | None = None
    performance_by: Mapping[str, Performance] = field(default_factory=dict)
    again: tuple[Earlier, ...] = ()
    retraining: Decision | None = None

    @property
    def worst(self) -> PartitionDrift:
        """The partition that speaks for all: of those decided and drifted, the one whose score moved most."""
        return max(self.partitions, key=lambda part: (part.decided, part.drifted, part.score.relative))

    @property
    def decided(self) -> bool:
        """Whether any partition has rows enough."""
        return any(part.decided for part in self.partitions)

    @property
    def drifted(self) -> bool:
        """The verdict."""
        return bool(self.reasons())

    @property
    def rows(self) -> int:
        """Rows with a prediction."""
        return sum(part.rows for part in self.partitions)

    def reasons(self) -> list[str]:
        """Why the verdict is "drifted"; none if it is not."""
        several = len(self.partitions) > 1
        said = [
            f"{part.partition}: {reason}" if several else reason
            for part in self.partitions
            for reason in part.reasons()
        ]
        least, found = self.arguments.min_roc_auc, self.roc_auc
        if least is not None and found is not None and found < least:
            matured = self.performance.matured if self.performance else 0
            said.append(f"ROC AUC on {matured:,} matured labels is {found:.3f}, below {least:g}")
        return said

    @property
    def newest(self) -> PartitionDrift:
        """The newest partition that was asked for; the last one, where partitions are no times."""
        return max(self.partitions, key=lambda part: part.partition)

    @property
    def roc_auc(self) -> float | None:
        """On the matured rows of all partitions; None where there are too few."""
        estimate = self.performance.metrics.get("roc_auc") if self.performance else None
        return estimate.value if estimate else None

    def sentence(self) -> str:
        """The verdict in a line."""
        if self.drifted:
            reasons = self.reasons()
            more = f"; and {len(reasons) - _MOST_SAID} more" if len(reasons) > _MOST_SAID else ""
            return f"drifted: {'; '.join(reasons[:_MOST_SAID])}{more}"
        if not self.decided:
            return f"no verdict: fewer than {self.arguments.minimum_rows:,} rows"
        return "calm"

    def verdict(self) -> dict[str, Any]:
        """The decision document; its plain values are those of the worst partition."""
        worst = self.worst
        return {
            "drifted": self.drifted,
            "decided": self.decided,
            "reasons": self.reasons(),
            "partitions": self.label,
            "worst_partition": worst.partition,
            "rows": self.rows,
            "score_psi": round(worst.score.psi, 6),
            "score_psi_limit": round(worst.score.psi_limit, 6),
            "features": len(worst.features),
            "drifted_features": worst.drifted_features,
            "share": round(worst.share, 6),
            "performance": self.performance.document() if self.performance else None,
            "thresholds": {
                "max_psi": self.arguments.max_psi,
                "max_drifted_share": self.arguments.max_drifted_share,
                "min_roc_auc": self.arguments.min_roc_auc,
                "minimum_rows": self.arguments.minimum_rows,
            },
            "model": {
                "name": worst.model.name,
                "version": worst.model.version,
                "run_id": worst.model.run_id,
            },
            "by_partition": {
                part.partition: {
                    "drifted": part.drifted if part.decided else None,
                    "score_psi": round(part.score.psi, 6),
                    "share": round(part.share, 6),
                    **self._matured(part.partition),
                }
                for part in self.partitions
            },
            "again": {
                part.partition: {"matured_before": part.before, **self._matured(part.partition)}
                for part in self.again
            },
            "retraining": self.retraining.document() if self.retraining else None,
        }

    def _matured(self, partition: str) -> dict[str, Any]:
        judged = self.performance_by.get(partition)
        if judged is None:
            return {}
        auc = judged.metrics.get("roc_auc")
        return {
            "predicted": judged.predicted,
            "matured": judged.matured,
            "matured_share": round(judged.share, 6),
            "roc_auc": auc.value if auc else None,
        }
