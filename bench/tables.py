"""The baseline and the judge: raw COPY, and a comparison of table and file that uses nothing of ours."""

from __future__ import annotations

import csv
import time
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

import asyncpg

from bench.orders import COLUMNS
from bench.servers import BenchError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RAW = "orders_raw"
PAGE = 10_000


async def prepare_raw(dsn: str) -> None:
    """Make a table like that of `orders`, with its key, for raw COPY; without our receipts, which only slow it."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(
            f"DROP TABLE IF EXISTS {RAW}; CREATE TABLE {RAW} (LIKE orders INCLUDING ALL);"
            f"ALTER TABLE {RAW} DROP COLUMN IF EXISTS receipt"
        )
    finally:
        await connection.close()


async def clear(dsn: str, table: str) -> None:
    """Empty a table and write out what is dirty, so that every run starts from the same state."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(f"TRUNCATE {table}")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


async def copy_raw(dsn: str, path: Path) -> float:
    """Load the file by one COPY; returns seconds, connecting and committing included."""
    started = time.perf_counter()
    connection = await asyncpg.connect(dsn)
    try:
        await connection.copy_to_table(RAW, source=path, columns=COLUMNS, format="csv", header=True)
    finally:
        await connection.close()
    return time.perf_counter() - started


def parsed(path: Path) -> Iterator[tuple[object, ...]]:
    """Read the file in the order of its key, which is its own."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        next(reader)
        for order_id, customer, sku, quantity, price, placed_at, note in reader:
            yield (
                int(order_id),
                customer,
                sku,
                int(quantity),
                Decimal(price),
                datetime.fromisoformat(placed_at),
                note or None,
            )


async def compare(dsn: str, table: str, path: Path) -> None:
    """Compare every row of a table with the file. Raises `BenchError` at the first difference."""
    expected = parsed(path)
    total = table == "orders_with_total"
    columns = ", ".join((*COLUMNS, "total") if total else COLUMNS)
    connection = await asyncpg.connect(dsn)
    number = 0
    try:
        async with connection.transaction():
            cursor = await connection.cursor(f"SELECT {columns} FROM {table} ORDER BY order_id")
            while page := await cursor.fetch(PAGE):
                for record in page:
                    number += 1
                    found = tuple(record)
                    wanted = next(expected, ())
                    if total and wanted:
                        wanted = (*wanted, record["price"] * record["quantity"])
                    if found != wanted:
                        message = f"{table}, row {number}: the table has {found}, the file {wanted}"
                        raise BenchError(message)
    finally:
        await connection.close()
    if (missing := next(expected, None)) is not None:
        message = f"{table} ends after {number} rows; the file goes on with {missing}"
        raise BenchError(message)
