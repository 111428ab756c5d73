"""A registered model with versions in a real MLflow, its ledger, and verdicts on it."""

from __future__ import annotations

from typing import Any

import mlflow
from model_world import World

from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.registry.ledger import Entry, Ledger

KNOWN_UNTIL = "2013-05-01T05:00:00+00:00"


class Registry:
    """A registered model with some versions, tagged as a train step tags them."""

    def __init__(self, world: World, name: str, versions: int = 3) -> None:
        self.world, self.name, self.client = world, name, world.client
        if not versions:
            return
        self.client.create_registered_model(name)
        run = self.client.create_run("0")
        tags = {"airflow_ml.artifact_digest": "d" * 64, "airflow_ml.known_until": KNOWN_UNTIL}
        for _ in range(versions):
            self.client.create_model_version(
                name, f"{run.info.artifact_uri}/model", run.info.run_id, tags=tags
            )

    @property
    def ledger(self) -> Ledger:
        return Ledger(Store(self.world.store), self.name)

    @property
    def champion(self) -> int | None:
        try:
            return int(self.client.get_model_version_by_alias(self.name, "champion").version)
        except mlflow.exceptions.RestException:
            return None

    @champion.setter
    def champion(self, version: int | None) -> None:
        if version is None:
            self.client.delete_registered_model_alias(self.name, "champion")
        else:
            self.client.set_registered_model_alias(self.name, "champion", str(version))

    def tags(self, version: int) -> dict[str, str]:
        found = self.client.get_model_version(self.name, str(version)).tags
        return {key.removeprefix("airflow_ml."): value for key, value in found.items()}

    def verdict(self, version: int, champion: int | None, decision: str = "promote") -> dict[str, Any]:
        passed = decision == "promote"
        return {
            "decision": decision,
            "model": {"name": self.name, "version": version, "run_id": "r"},
            "champion": champion and {"name": self.name, "version": champion, "run_id": "r"},
            "rows": 10,
            "gates": [{"gate": "roc_auc >= 0.7", "passed": passed, "value": 0.6, "reason": "because"}],
        }

    def promote(self, verdict: dict[str, Any], step_key: str = "first", **arguments: Any) -> Any:
        return self.world.run(
            "promote", {"verdict": verdict, **arguments}, step_key=step_key, fingerprint="f"
        )

    def promoted(self, version: int) -> None:
        """Promote a version over the present champion."""
        result = self.promote(self.verdict(version, self.champion), step_key=f"promote-{version}")
        assert result.verdict["promoted"], result.failure

    def roll_back(self, step_key: str = "back", **arguments: Any) -> Any:
        given = {"model": {"name": self.name}, "reason": "worse at night", **arguments}
        return self.world.run("rollback", given, step_key=step_key, fingerprint="f")

    def explained(self) -> list[Entry]:
        """The entries that moved the champion, when they explain where it is; fails when they do not."""
        moves = self.ledger.moves()
        assert [move.entry.sequence for move in moves] == list(range(1, len(moves) + 1))
        assert all(move.outcome is not None for move in moves)
        moved = [move.entry for move in moves if move.moved and move.entry.alias == "champion"]
        for before, after in zip([None, *moved], moved, strict=False):
            assert after.previous == (before.version if before else None)
        assert (moved[-1].version if moved else None) == self.champion
        return moved
