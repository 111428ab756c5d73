"""A split: which of several model versions scores a row, by a hash of the row's key.

The assignment is weighted rendezvous hashing (the logarithmic method of Schindelhauer and Schomaker, "Weighted
distributed hash tables", SPAA 2005): each variant draws a number for the key, and the least of
``-ln(u) / share`` wins. A key therefore goes to each variant with the probability of its share, and when one
variant's share grows at the others' cost, keys only move to it. Another program computes the same::

    text  = salt + "\\x1f" + variant + "\\x1f" + key                 as UTF-8; parts of a key joined by "\\x1f"
    u     = (int(md5(text).hexdigest()[:13], 16) + 0.5) / 2**52      strictly between 0 and 1
    score = -ln(u) / share                                           the least wins; of equal ones the first name

A key's part is text as it is, an integer in decimal, a boolean as ``true`` or ``false``, a day as
``2013-06-05``, a time in UTC as ``2013-06-05T06:00:00.000000Z``; a missing part is empty.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import msgspec

from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.models import Model

SEPARATOR = "\x1f"
# Hexadecimal digits of the hash that are used: 52 bits, which a double holds exactly together with a half.
DIGITS = 13
_TOLERANCE = 1e-9


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model of a split.

    :param name: the alias, or the version as text, that the split was declared with.
    :param share: of the keys, more than 0, at most 1.
    """

    name: str
    share: float
    model: Model

    @property
    def selection(self) -> str:
        """Why it scores rows, as each row of predictions records it."""
        what = f"version {self.name}" if self.name.isdigit() else self.name
        return f"{what} {self.share * 100:.10g} % of keys"


def check_split(split: Mapping[Any, Any]) -> dict[str, float]:
    """The shares by variant, in the order of their names.

    :raises ConfigError: fewer than two variants, a share that is none, or shares that do not add up to 1.
    """
    what = f"split={dict(split)!r}"
    todo = 'write it as {"champion": 0.9, "challenger": 0.1}: aliases or versions to shares of the keys'
    shares: dict[str, float] = {}
    for name, share in split.items():
        if (
            not str(name)
            or isinstance(share, bool)
            or not isinstance(share, (int, float))
            or not 0 < share < 1
        ):
            raise ConfigError(f"{what}: {share!r} cannot be the share of {name!r}", todo=todo)
        shares[str(name)] = float(share)
    if len(shares) < max(2, len(split)):
        raise ConfigError(f"{what} needs two variants or more, each named once", todo=todo)
    if abs(math.fsum(shares.values()) - 1) > _TOLERANCE:
        raise ConfigError(
            f"{what}: the shares add up to {math.fsum(shares.values()):.6g}, not to 1", todo=todo
        )
    return dict(sorted(shares.items()))


def model_of(name: str, variant: str) -> Model:
    """The model that a variant names: a version if it is a number, an alias otherwise."""
    return Model(name, version=int(variant)) if variant.isdigit() else Model(name, variant)


def variant_of(key: str, shares: Mapping[str, float], salt: str) -> str:
    """The variant of one key; the reference for the assignment of whole tables.

    :param key: the parts of the key as texts, joined by :data:`SEPARATOR`.
    """

    def score(variant: str) -> tuple[float, str]:
        text = SEPARATOR.join((salt, variant, key)).encode()
        drawn = int(hashlib.md5(text, usedforsecurity=False).hexdigest()[:DIGITS], 16)
        return -math.log((drawn + 0.5) / 2 ** (4 * DIGITS)) / shares[variant], variant

    return min(shares, key=score)
