"""LightGBM's library asked for scores without its Python package.

The package imports scikit-learn, SciPy and pandas at once: two seconds, more than a day's rows take to be scored.
The library is the same, and so are the scores. It is asked by the C interface that LightGBM documents and keeps
stable within a major version (https://lightgbm.readthedocs.io/en/stable/C-API.html).
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Of the interface that is used here.
_MAJOR = "4"
_FLOAT64, _NORMAL, _FROM_FIRST, _ALL_TREES = 1, 0, 0, -1
# Of a model that was trained on a matrix, and on a pandas frame of numbers.
_WITHOUT_CATEGORIES = (b"pandas_categorical:null", b"pandas_categorical:[]")
_TAIL = 4096


class LibraryScorer:
    """A model that gives scores and nothing else, for several threads at once.

    It takes what ``lightgbm.Booster.predict`` takes for a matrix, and gives the same.

    :param file: a model in LightGBM's text format.
    """

    pandas_categorical = None

    def __init__(self, file: Path, library: ctypes.CDLL) -> None:
        self._library = library
        self._handle = ctypes.c_void_p()
        trees = ctypes.c_int()
        self._call(
            "LGBM_BoosterCreateFromModelfile",
            str(file).encode(),
            ctypes.byref(trees),
            ctypes.byref(self._handle),
        )

    def __del__(self) -> None:
        if self._handle:
            self._library.LGBM_BoosterFree(self._handle)

    def predict(self, rows: NDArray[np.float64], *, num_threads: int) -> NDArray[np.float64]:
        """Scores of shape ``(rows,)``, or ``(rows, classes)`` where there are several.

        :param rows: of shape ``(rows, features)``.
        :param num_threads: 0: as many as there are processors.
        :raises RuntimeError: what the library says.
        """
        by_column = not rows.flags.c_contiguous and rows.flags.f_contiguous
        data = np.require(rows, np.float64, None if by_column else "C")
        count = ctypes.c_int64()
        of_what = (ctypes.c_int(_NORMAL), ctypes.c_int(_FROM_FIRST), ctypes.c_int(_ALL_TREES))
        height, width = ctypes.c_int32(rows.shape[0]), ctypes.c_int32(rows.shape[1])
        self._call("LGBM_BoosterCalcNumPredict", self._handle, height, *of_what, ctypes.byref(count))
        found = np.empty(count.value, np.float64)
        self._call(
            "LGBM_BoosterPredictForMat", self._handle, data.ctypes.data_as(ctypes.c_void_p), ctypes.c_int(_FLOAT64),
            height, width, ctypes.c_int(not by_column), *of_what, f"num_threads={num_threads}".encode(),
            ctypes.byref(count), found.ctypes.data_as(ctypes.POINTER(ctypes.c_double)),
        )  # fmt: skip
        return found if len(found) == len(rows) else found.reshape(len(rows), -1)

    def _call(self, name: str, *arguments: Any) -> None:
        if getattr(self._library, name)(*arguments):
            raise RuntimeError(self._library.LGBM_GetLastError().decode(errors="replace"))


def scorer_of(file: Path) -> LibraryScorer | None:
    """The model of a file; None where the package must be asked: there are text features, or it is another one."""
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - _TAIL))
        plain = stream.read().rstrip().endswith(_WITHOUT_CATEGORIES)
    library = _library() if plain else None
    return None if library is None else LibraryScorer(file, library)


@lru_cache
def _library() -> ctypes.CDLL | None:
    found = find_spec("lightgbm")
    try:
        known = version("lightgbm").partition(".")[0] == _MAJOR
    except PackageNotFoundError:
        known = False
    if found is None or found.origin is None or not known:
        return None
    path = Path(found.origin).parent / "lib" / "lib_lightgbm.so"
    if not path.is_file():
        return None
    library = ctypes.CDLL(str(path))
    library.LGBM_GetLastError.restype = ctypes.c_char_p
    return library
