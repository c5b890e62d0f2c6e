"""The pipelines that are measured, `orders` and `orders_with_total`, and the file that they load.

The file is the same for the same number of rows and first number: 7 columns, about 86 bytes a row, with quoted
commas, quotes and line breaks among the notes, absent notes, and time stamps of several zones.
"""

from __future__ import annotations

import csv
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated

from pydantic import AwareDatetime, Field

from contracts import Pipeline, PostgresTable, Record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COLUMNS = ("order_id", "customer", "sku", "quantity", "price", "placed_at", "note")
ZONES = tuple(timezone(timedelta(hours=hours)) for hours in (0, 2, -5, 9))
FIRST = datetime(2024, 1, 1, tzinfo=ZONES[0])
NOTES = (
    "leave it at the door",
    "",
    "gift, please wrap it twice",
    "call before delivery",
    'says "fragile" on the box',
    "",
    "ring twice",
    "second floor\nleft door",
)


class Order(Record):
    """One order of the file."""

    order_id: int
    customer: str
    sku: str
    quantity: Annotated[int, Field(ge=1)]
    price: Decimal
    placed_at: AwareDatetime
    note: str | None = None


class OrderRow(Order):
    """An order and what it costs."""

    total: Decimal


def add_total(order: Order) -> OrderRow:
    """Derive what the order costs."""
    return OrderRow(**order.__dict__, total=order.price * order.quantity)


orders = Pipeline(name="orders", record=Order, sink=PostgresTable("orders", key=("order_id",)))
orders_with_total = Pipeline(
    name="orders_with_total",
    record=Order,
    process=add_total,
    sink=PostgresTable("orders_with_total", key=("order_id",)),
)


def rows(count: int, first: int = 1) -> Iterator[tuple[str, ...]]:
    """Generate the cells of `count` orders, by arithmetic only, so that they are the same everywhere."""
    for number in range(first, first + count):
        cents = 99 + number * 2654435761 % 250_000
        placed = (FIRST + timedelta(seconds=number * 7)).astimezone(ZONES[number % len(ZONES)])
        # One note in a thousand has a line break: enough that splitting a file at newlines would show.
        note = NOTES[number * 31 % (len(NOTES) - 1)] if number % 1000 else NOTES[-1]
        yield (
            str(number),
            f"customer-{number * 7919 % 50_000:05d}",
            f"SKU-{number * 104_729 % 20_000:06d}",
            str(1 + number * 31 % 9),
            f"{cents // 100}.{cents % 100:02d}",
            placed.isoformat(),
            note,
        )


def write_orders(path: Path, count: int, first: int = 1) -> None:
    """Write the file of `count` orders, numbered from `first` on."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows(count, first))
