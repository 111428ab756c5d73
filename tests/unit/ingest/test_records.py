"""Where a record ends: the quick way and the exact way agree, and the parser agrees with both."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.csv as pa_csv
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_ml_provider.steps import records

text = st.text(st.sampled_from('a,"\n\r;é'), max_size=60).map(lambda text: text.encode() + b"\n")


def parsed_records(data: bytes) -> int:
    """How many records the parser makes of it."""
    count = 0

    def handle(row: pa_csv.InvalidRow) -> str:
        nonlocal count
        count += 1
        return "skip"

    table = pa_csv.read_csv(
        pa.py_buffer(data),
        read_options=pa_csv.ReadOptions(column_names=["a", "b"], use_threads=False, block_size=len(data) + 1),
        parse_options=pa_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=handle),
    )
    return count + table.num_rows


@settings(max_examples=300, deadline=None)
@given(text)
@example(b'a,"b""c\n"\n"d",e\n')
@example(b'"a"x"\n",b\n')
@example(b'a"\n"b",c\n')
def test_both_ways_to_find_records_agree_where_the_quick_one_dares(data: bytes) -> None:
    exact = records._ends_by_scanning(data, b",")
    if b'"' in data and not records.has_lone_return(data):
        quick = records._ends_by_parity(data, b",")
        if quick is not None:
            assert quick.tolist() == exact.tolist()
    whole = data[: int(exact[-1])] if len(exact) else b""
    if whole.strip(b"\r\n"):
        block = records.Block(whole if whole.endswith(b"\n") else whole + b"\n", 1, b",")
        assert len(block.records.lines) == parsed_records(block.data)


@settings(max_examples=200, deadline=None)
@given(st.lists(text, max_size=6).map(b"".join), st.integers(1, 40))
def test_blocks_hold_all_bytes_in_order_with_their_lines_whatever_their_size(data: bytes, size: int) -> None:
    before, records.BLOCK_BYTES = records.BLOCK_BYTES, size
    try:
        small = list(records.blocks(io.BytesIO(data), "f", b","))
    finally:
        records.BLOCK_BYTES = before
    large = list(records.blocks(io.BytesIO(data), "f", b","))
    assert told(small) == told(large)


def told(blocks: list[records.Block]) -> list[tuple[int, str]]:
    """Line and text of every record, and of those that were never closed."""
    found = [
        (int(block.records.lines[n]), block.text(n))
        for block in blocks
        for n in range(len(block.records.lines))
    ]
    return sorted(found + [(bad.line, bad.raw) for block in blocks for bad in block.bad])


def test_a_lone_carriage_return_ends_a_line_as_it_ends_a_record() -> None:
    (block,) = records.blocks(io.BytesIO(b"a,b\rc,d\r\n\r\ne,f\n"), "f", b",")
    assert block.records.lines.tolist() == [1, 2, 4]
    assert [block.text(n) for n in range(3)] == ["a,b", "c,d", "e,f"]


@settings(max_examples=300, deadline=None)
@given(text.map(lambda text: text[:-1]))
@example(b'a,"b\nc","d')
def test_a_block_ends_with_its_last_whole_record(data: bytes) -> None:
    end, _ = records._whole_records(data, b",")
    ends = records.record_ends(data, b",")
    assert end == (ends[-1] if len(ends) else 0)
