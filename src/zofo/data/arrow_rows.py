"""Rows of Arrow's tables, and Parquet's errors by the file's name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zofo.errors import InputError, printable


def check_twice(place: str, names: Sequence[str]) -> None:
    """Raises InputError where two columns have one name: a row would lose one of them."""
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise InputError(f'{place}: two columns have the name "{printable(twice, 60)}"; rename or drop one')


def python_rows(batch: Any) -> list[dict[str, Any]]:
    """An Arrow batch's rows. A column with what Python has no object for, such as a date in the year 10000, is None."""
    columns = []
    for column in batch.columns:
        try:
            columns.append(column.to_pylist())
        except UnicodeDecodeError:
            raise
        except (OverflowError, ValueError, ImportError):
            columns.append([None] * batch.num_rows)
    return [dict(zip(batch.schema.names, cells)) for cells in zip(*columns)]


@contextmanager
def parquet_errors(path: Path) -> Iterator[None]:
    """Arrow's errors as InputErrors that name the file."""
    import pyarrow

    try:
        yield
    except UnicodeDecodeError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError) as e:
        reason = str(e).splitlines()[0].partition(": T")[0]  # without the class of Thrift's that it names
        reason = re.sub("^Could not open Parquet input source '.*': ", "", reason)
        raise InputError(
            f"{path.name}: not a readable Parquet file ({reason}), as by a download that was cut; make it again"
        ) from None
