"""Rows to files, whole or not at all: JSON lines, or Parquet by way of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from proxy.errors import ConfigError
from proxy.trace.export.rows import Row

PARQUET = ".parquet"
_BATCH = 1000


class RowFile:
    """Writes beside its place, and takes it when it is finished."""

    def __init__(self, path: Path) -> None:
        """Raises `ConfigError` if nothing can be written there, or Parquet is asked for and not installed."""
        self.path = path
        self._unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        if path.suffix == PARQUET:
            _pyarrow()
        try:
            self._out: TextIO = self._unfinished.open("w", encoding="utf-8", errors="replace")
        except OSError as exc:
            raise ConfigError("", f"cannot write to {path}: {exc.strerror}") from exc

    def write(self, row: Row) -> None:
        self._out.write(to_line(row))

    def finish(self) -> None:
        self._out.close()
        if self.path.suffix == PARQUET:
            _to_parquet(self._unfinished)
        self._unfinished.replace(self.path)

    def discard(self) -> None:
        self._out.close()
        self._unfinished.unlink(missing_ok=True)


def to_line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as exc:
        raise ConfigError("", "Parquet needs pyarrow: pip install 'cord-proxy[export]'") from exc
    return pyarrow


def _to_parquet(file: Path) -> None:
    """Turn a file of JSON lines into Parquet, with one schema that fits all rows, a batch at a time."""
    pa = _pyarrow()
    schema = pa.schema([])
    for rows in _batches(file):
        schema = pa.unify_schemas(
            [schema, pa.Table.from_pylist(rows).schema], promote_options="permissive"
        )
    written = file.with_name(f"{file.name}{PARQUET}")
    with pa.parquet.ParquetWriter(written, schema) as writer:
        for rows in _batches(file):
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    written.replace(file)


def _batches(file: Path) -> Iterator[list[Row]]:
    with file.open(encoding="utf-8") as lines:
        while rows := [json.loads(line) for _, line in zip(range(_BATCH), lines, strict=False)]:
            yield rows
