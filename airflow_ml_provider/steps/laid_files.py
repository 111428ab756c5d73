"""Frames laid down in the scratch folder between two passes over them.

They are Arrow files without compression: written as fast as memory is copied, and read where they lie, without
taking memory that the machine could not take back.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa

# A frame that turns out to be too large is computed twice for a moment: that takes room of its own.
_WORTH_TRYING = 256 << 20


def lay(frame: pl.LazyFrame, to: Path) -> Path:
    """Compute a frame into a file, batch by batch, in its order."""
    frame.sink_ipc(to, compression="uncompressed")
    return to


def hold(frame: pl.LazyFrame, to: Path, most: int) -> pl.DataFrame | None:
    """Compute a frame, in memory if it does not take too much of it, or into a file.

    :param most: bytes that may be held.
    :returns: the frame, each column in one chunk; None when it is in the file.
    """
    if most < _WORTH_TRYING:
        lay(frame, to)
        return None
    batches, size = [], 0
    for batch in frame.collect_batches(maintain_order=True):
        batches.append(batch)
        size += int(batch.estimated_size())
        if size > most:
            break
    if size > most:
        batches.clear()
        # From the beginning: what little was computed is not worth a second way to write it.
        lay(frame, to)
        return None
    whole = pl.concat(batches) if batches else frame.clear().collect()
    batches.clear()
    # Column by column, so that no more than one of them is there twice.
    return pl.DataFrame([whole.drop_in_place(name).rechunk() for name in whole.columns])


def slices(path: Path, rows: int) -> Iterator[pl.DataFrame]:
    """A file as frames of so many rows at most, in order; those of an Arrow file lie in the file."""
    if path.suffix != ".arrow":
        yield from pl.scan_parquet(path).collect_batches(chunk_size=rows, maintain_order=True)
        return
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        for number in range(reader.num_record_batches):
            yield from pl.DataFrame(reader.get_batch(number)).iter_slices(rows)


def scan(path: Path) -> pl.LazyFrame:
    """A file that a step has laid down, an Arrow or a Parquet file, as a frame."""
    return pl.scan_ipc(path) if path.suffix == ".arrow" else pl.scan_parquet(path)
