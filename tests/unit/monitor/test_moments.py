"""Moments as people give them."""

from __future__ import annotations

from datetime import datetime

import pytest

from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.steps.moments import moment


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2013-06-08T08:00:00Z", datetime(2013, 6, 8, 8)),
        ("2013-06-08 10:00+02:00", datetime(2013, 6, 8, 8)),
        ("2013-06-08T08:00", datetime(2013, 6, 8, 8)),
        (" 2013-06-08 ", datetime(2013, 6, 8)),
        ("", None),
        ("  ", None),
    ],
)
def test_a_moment_is_taken_as_utc_unless_it_names_a_zone(text: str, found: datetime | None) -> None:
    assert moment(text, name="known_at") == found


def test_what_is_no_moment_is_refused_by_the_name_of_the_argument() -> None:
    with pytest.raises(ConfigError, match="known_at is 'yesterday', not a moment"):
        moment("yesterday", name="known_at")
