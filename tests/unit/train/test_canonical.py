"""scikit-learn models as files: equal models are equal bytes."""

from __future__ import annotations

import numpy as np
import skops.io
from sklearn.ensemble import RandomForestClassifier

from airflow_ml_provider.steps.flavors import canonical


def test_equal_models_are_equal_bytes_and_load_as_what_they_were() -> None:
    random = np.random.default_rng(0)
    rows, labels = random.random((60, 3)), np.arange(60) % 2
    one, other, another = (
        RandomForestClassifier(3, random_state=seed).fit(rows, labels) for seed in (1, 1, 2)
    )
    written = canonical.dumps(one)
    assert written == canonical.dumps(other)
    assert written != canonical.dumps(another)
    loaded = skops.io.loads(written, trusted=skops.io.get_untrusted_types(data=written))
    assert loaded.predict_proba(rows).tobytes() == one.predict_proba(rows).tobytes()
