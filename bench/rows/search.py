"""A search against bare Optuna with the same function: two processes that share a journal, and one in memory.

The number of trials is that of a search, not of ``--rows``: 1,000 small LightGBM trainings (a tenth with fewer than
a million rows), and 20,000 trials that do nothing (a tenth likewise).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from bench.measuring import Cost, Row, in_turn
from bench.scene import Scene

CODE = '''
import numpy as np
import lightgbm

def _data():
    random = np.random.default_rng(5)
    x = random.normal(size=(4_000, 12))
    y = (random.random(4_000) < 1 / (1 + np.exp(-x[:, 0] * x[:, 1] - x[:, 2]))).astype(int)
    return x, y

X, Y = _data()

def trained(params):
    """Log loss of rows held out; some 30 ms."""
    data = lightgbm.Dataset(X[:3_000], Y[:3_000])
    settings = {**params, "objective": "binary", "verbose": -1, "num_threads": 1, "seed": 1, "deterministic": True}
    scores = np.clip(lightgbm.train(settings, data, num_boost_round=25).predict(X[3_000:]), 1e-9, 1 - 1e-9)
    return float(-np.mean(Y[3_000:] * np.log(scores) + (1 - Y[3_000:]) * np.log(1 - scores)))

def nothing(params):
    return (params["learning_rate"] - 0.1) ** 2 + params["num_leaves"] / 1000
'''
OPTUNA = """
import multiprocessing, os, sys
os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, sys.argv[1])

def study(seed, sampler, place):
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    kinds = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
    storage = JournalStorage(JournalFileBackend(place)) if place else None
    return optuna.create_study(study_name="s", storage=storage, load_if_exists=True, sampler=kinds[sampler](seed=seed))

def some(given):
    seed, trials, sampler, function, place = given
    import searched
    def objective(trial):
        return getattr(searched, function)({
            "num_leaves": trial.suggest_int("num_leaves", 4, 64, log=True),
            "learning_rate": trial.suggest_float("learning_rate", 0.01, 0.5, log=True),
            "min_data_in_leaf": trial.suggest_int("min_data_in_leaf", 1, 100, log=True),
            "feature_fraction": trial.suggest_float("feature_fraction", 0.3, 1.0),
        })
    found = study(seed, sampler, place)
    found.optimize(objective, n_trials=trials)
    return found.best_value

if __name__ == "__main__":
    trials, sampler, function, place = int(sys.argv[2]), *sys.argv[3:6]
    if place:
        study(0, sampler, place)
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            print(pool.map(some, [(seed, trials // 2, sampler, function, place) for seed in (1, 2)]))
    else:
        print(some((1, trials, sampler, function, "")))
"""
SPACE = {
    "num_leaves": {"type": "integers", "low": 4, "high": 64, "log": True},
    "learning_rate": {"type": "floats", "low": 0.01, "high": 0.5, "log": True},
    "min_data_in_leaf": {"type": "integers", "low": 1, "high": 100, "log": True},
    "feature_fraction": {"type": "floats", "low": 0.3, "high": 1.0},
}


def rows(scene: Scene) -> Iterator[Row]:
    """One for a search that learns, one for many cheap trials."""
    code = scene.folder / "search-code"
    code.mkdir(exist_ok=True)
    (code / "searched.py").write_text(CODE)
    reference = scene.folder / "bare_optuna.py"
    reference.write_text(OPTUNA)
    share = 1 if scene.rows >= 1_000_000 else 10
    keys = iter(range(10_000))
    for trials, sampler, function, shared, target, limit in (
        (1_000 // share, "tpe", "trained", True, "<= 1.1x time", 1.1),
        (20_000 // share, "random", "nothing", False, "–", None),
    ):

        def ours(trials: int = trials, sampler: str = sampler, function: str = function) -> Cost:
            # A key of its own: nothing is known of the search.
            arguments = {
                "function": f"searched:{function}", "space": SPACE, "metric": "-loss", "trials": trials,
                "sampler": sampler,
            }  # fmt: skip
            return scene.step("search", arguments, key=f"search-{next(keys)}", code=code)

        def theirs(
            trials: int = trials, sampler: str = sampler, function: str = function, shared: bool = shared
        ) -> Cost:
            place = scene.folder / f"journal-{next(keys)}"
            found = scene.python(reference, code, trials, sampler, function, place if shared else "")
            place.unlink(missing_ok=True)
            shutil.rmtree(f"{place}.lock", ignore_errors=True)
            return found

        mine, others = in_turn(ours, theirs, scene.repeats)
        yield Row(
            f"search: {trials:,} trials, {sampler}, {'30 ms each' if shared else 'doing nothing'}",
            "Optuna's study.optimize in two processes, a journal file"
            if shared
            else "Optuna's study.optimize in one process, in memory",
            target,
            mine,
            others,
            limit=limit,
            note="ledger, figures and page included",
        )
