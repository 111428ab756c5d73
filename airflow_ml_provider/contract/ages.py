"""Lengths of time as people write them: "90m", "6h", "14d", "2w"."""

from __future__ import annotations

import re

from airflow_ml_provider.contract.errors import ConfigError

_AGE = re.compile(r"(\d{1,9})([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def age_seconds(text: str, *, what: str) -> int:
    """A length of time in seconds.

    :param what: whose it is, for the message.
    :raises ConfigError: it is not one.
    """
    found = _AGE.fullmatch(text)
    if found is None:
        raise ConfigError(
            f"{what}: {text!r} is not an age",
            todo='write a number and one of s, m, h, d, w: "90m", "6h", "14d"',
        )
    return int(found[1]) * _SECONDS[found[2]]
