"""Lines of a text, found one by one."""

from __future__ import annotations

import pytest

from airflow_ml_provider.steps import line_ends
from airflow_ml_provider.steps.line_ends import LineEnds


@pytest.mark.parametrize("piece", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize(
    "text", [b"\n", b"a\n", b"\n\n\n", b"ab\n\ncdefghi\nj\n", b"a" * 50 + b"\n" + b"b\n" * 20]
)
def test_each_line_is_found_in_any_order_whatever_is_looked_through_at_once(
    text: bytes, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_ends, "_PIECE", piece)
    wanted = text.splitlines(keepends=True)
    found = LineEnds(text)
    assert len(found) == len(wanted)
    assert [found.line(number) for number in reversed(range(len(wanted)))] == wanted[::-1]


def test_a_text_without_anything_has_no_line() -> None:
    assert len(LineEnds(b"")) == 0
