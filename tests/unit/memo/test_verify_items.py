"""cache="verify" of fleets and searches runs some items or trials again, and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk import DAG
from memo_world import Shop, run

from airflow_ml_provider import Floats
from airflow_ml_provider.contract.errors import DataError
from airflow_ml_provider.operators import FleetOperator, SearchOperator

WORK = """
    import os
    from pathlib import Path

    NOTES = Path(__file__).parent / "calls"

    def double(item, seed):
        with NOTES.open("a") as file:
            file.write(f"{item['x']}\\n")
        return {"y": 2 * item["x"], "seed": seed}

    def drawn(item):
        return {"y": item["x"], "drawn": int.from_bytes(os.urandom(4))}

    def loss(params):
        with NOTES.open("a") as file:
            file.write(f"{params['x']}\\n")
        return {"loss": params["x"] ** 2}

    def noisy_loss(params):
        return {"loss": params["x"] ** 2, "noise": int.from_bytes(os.urandom(4))}
    """


def fleet(shop: Shop, function: str, **more: Any) -> FleetOperator:
    over = [{"x": number} for number in range(10)]
    with DAG("fleets"):
        return FleetOperator(
            task_id="many", function=f"work:{function}", over=over, items_per_index=4, code=str(shop.code),
            compute=shop.compute, **more,
        )  # fmt: skip


def search(shop: Shop, function: str, **more: Any) -> SearchOperator:
    with DAG("searches"):
        return SearchOperator(
            task_id="look", function=f"work:{function}", search={"x": Floats(-1.0, 1.0)}, metric="-loss", trials=4,
            sampler="random", parallelism=1, code=str(shop.code), compute=shop.compute, **more,
        )  # fmt: skip


def everything(shop: Shop) -> dict[str, bytes | None]:
    """What the first run has left, the ledger first of all; a later run has a folder of its own."""
    first = f"runs/{shop.compute.launches[0].step_key}/"
    return {
        path: shop.store.read(path)
        for path in shop.store.paths("")
        if path.startswith(first) or not path.startswith(("memo/tasks/", "runs/"))
    }


def said(shop: Shop) -> str:
    key = shop.compute.launches[-1].step_key
    return str(shop.store.read_json(f"runs/{key}/result.json")["summary"]["verified"])


def calls(shop: Shop) -> list[str]:
    return (shop.code / "calls").read_text().split()


@pytest.fixture(autouse=True)
def work(shop: Shop) -> None:
    shop.write("work", WORK)


def test_three_items_of_a_fleet_are_run_again_and_nothing_changes(shop: Shop) -> None:
    run(fleet(shop, "double"), "run_1")
    before = everything(shop)
    assert len(calls(shop)) == 10
    output = run(fleet(shop, "double", cache="verify"), "run_2")
    assert output["cache"]["decision"] == "verified"
    assert said(shop) == "3 items are the same when they are computed again"
    assert len(calls(shop)) == 13
    assert everything(shop) == before


def test_the_items_follow_from_the_fingerprint(shop: Shop) -> None:
    run(fleet(shop, "double"), "run_1")
    for number in range(2):
        run(fleet(shop, "double", cache="verify"), f"again_{number}")
    assert calls(shop)[10:13] == calls(shop)[13:16]


def test_a_fleet_that_draws_at_random_is_found_out_by_item_and_value(shop: Shop) -> None:
    run(fleet(shop, "drawn"), "run_1")
    before = everything(shop)
    with pytest.raises(DataError, match="the fleet step is not deterministic") as caught:
        run(fleet(shop, "drawn", cache="verify"), "run_2")
    assert "drawn: " in str(caught.value)
    assert ": y: " not in str(caught.value)
    assert everything(shop) == before


def test_an_item_that_fails_when_it_is_run_again_is_told(shop: Shop) -> None:
    shop.write(
        "work",
        """
        from pathlib import Path

        NOTES = Path(__file__).parent / "calls"

        def once(item):
            seen = NOTES.read_text().split() if NOTES.exists() else []
            with NOTES.open("a") as file:
                file.write(f"{item['x']}\\n")
            if str(item["x"]) in seen:
                raise ValueError("I have seen it")
            return {}
        """,
    )
    run(fleet(shop, "once"), "run_1")
    with pytest.raises(DataError, match=r'item {"x": \d} fails: .*I have seen it'):
        run(fleet(shop, "once", cache="verify"), "run_2")


def test_trials_of_a_search_are_run_again_with_their_parameters(shop: Shop) -> None:
    run(search(shop, "loss"), "run_1")
    before = everything(shop)
    trials = calls(shop)
    assert run(search(shop, "loss", cache="verify"), "run_2")["cache"]["decision"] == "verified"
    assert said(shop) == "3 trials are the same when they are computed again"
    assert set(calls(shop)[len(trials) :]) <= set(trials)
    assert len(calls(shop)) == len(trials) + 3
    assert everything(shop) == before


def test_a_search_whose_metrics_are_drawn_is_found_out(shop: Shop) -> None:
    run(search(shop, "noisy_loss"), "run_1")
    with pytest.raises(DataError, match=r'trial \d, {"x": .*}: noise: '):
        run(search(shop, "noisy_loss", cache="verify"), "run_2")
