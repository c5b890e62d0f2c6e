"""Windows of items whose records nobody asks for: rows and receipts in one statement, one round trip.

Guarantee: outcome for outcome what `write_many` does, of which this is the quick case. Whatever is out of the
ordinary, a row that the table refuses, a key or a unit that stands twice, leaves nothing behind, and is left to it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import asyncpg

from contracts.ports import NO_RECORD, ItemOutcome
from contracts.table import RECEIPT_COLUMN
from stores.postgres_errors import row_fault
from stores.postgres_tables import RECEIPTS, column_names, listed, quoted, table_name
from stores.postgres_text import print_columns
from stores.postgres_write import conflict_clause, known_outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contracts.ports import Item
    from contracts.table import Row, Table
    from stores.postgres_write import Connection

FIND = f"""
SELECT receipt, pipeline, unit, state, fingerprint, '{NO_RECORD}' AS result FROM {RECEIPTS}
WHERE receipt = ANY($1)"""  # noqa: S608  - constants


async def write_window(connection: Connection, table: Table, items: Sequence[Item]) -> list[ItemOutcome] | None:
    """Write items all or nothing, or return None where it takes more than this to tell the whole outcome."""
    receipts = [item.unit.receipt for item in items]
    pipelines = {item.unit.pipeline for item in items}
    if len(set(receipts)) < len(items) or len(pipelines) > 1 or any(item.revive for item in items):
        return None
    rows = [item.row for item in items]
    if table.key is not None and keys_repeat(table, rows):
        return None
    try:
        nothing = (None,) * len(table.columns)
        texts = print_columns(table, [nothing if row is None else row for row in rows])
        made = await connection.fetch(
            window_statement(table),
            pipelines.pop(),
            receipts,
            [item.unit.name for item in items],
            [item.fingerprint for item in items],
            [row is not None for row in rows],
            *texts,
        )
    except Exception as error:
        if row_fault(error) is None and not isinstance(error, asyncpg.DeadlockDetectedError):
            raise
        return None
    fresh = {row["receipt"] for row in made}
    stored = ItemOutcome(status="stored")
    if len(fresh) == len(items):
        return [stored] * len(items)
    # Committed before, or by another attempt while this one waited for it: a new statement sees either.
    known = {row["receipt"]: row for row in await connection.fetch(FIND, [*set(receipts) - fresh])}
    return [stored if item.unit.receipt in fresh else known_outcome(item, known[item.unit.receipt]) for item in items]


def keys_repeat(table: Table, rows: Sequence[Row | None]) -> bool:
    """Say whether two rows have the same key."""
    names = column_names(table)
    places = [names.index(name) for name in table.key or ()]
    keys = [tuple(row[place] for place in places) for row in rows if row is not None]
    return len(set(keys)) < len(keys)


@lru_cache(maxsize=256)
def window_statement(table: Table) -> str:
    """Write the statement: pipeline, then arrays of receipts, units, fingerprints, "has a row", columns as text.

    It returns the receipts that are new. All receipts are inserted before the first row, so no row of a unit that is
    known is even tried; and in order, as the rows are in the order of their keys, so that windows that share some do
    not wait for each other in a circle. If a row did not arrive, because its key is taken under `reject` or a
    trigger skipped it, the statement fails by dividing by zero, which takes everything back. Under `ignore` a row may
    stay out if there is one with its key.
    """
    names = column_names(table)
    arrays = ", ".join(f"${index}::text[]" for index in range(6, len(names) + 6))
    values = ", ".join(f"u.{quoted(column.name)}::{column.type}" for column in table.columns)
    order = f"ORDER BY {listed(table.key, 'g.')}" if table.key else ""
    kept = ""
    if table.key is not None and table.on_conflict == "ignore":
        match = " AND ".join(f"t.{quoted(name)} = g.{quoted(name)}" for name in table.key)
        kept = f"""
        + (SELECT count(*) FROM given AS g JOIN made USING ("__receipt__") JOIN {table_name(table)} AS t ON {match}
           WHERE g."__full__" AND g."__receipt__" NOT IN (SELECT {quoted(RECEIPT_COLUMN)} FROM put))"""  # noqa: S608  - identifiers are quoted
    return f"""
WITH given AS MATERIALIZED (
    SELECT u."__receipt__", u."__unit__", u."__fingerprint__", u."__full__", {values}
    FROM unnest($2::uuid[], $3::text[], $4::text[], $5::boolean[], {arrays})
        AS u("__receipt__", "__unit__", "__fingerprint__", "__full__", {listed(names)})
), made AS (
    INSERT INTO {RECEIPTS} AS r (receipt, pipeline, unit, fingerprint, result)
    SELECT "__receipt__", $1, "__unit__", "__fingerprint__", '{NO_RECORD}' FROM given ORDER BY "__receipt__"
    ON CONFLICT DO NOTHING RETURNING r.receipt AS "__receipt__"
), put AS (
    INSERT INTO {table_name(table)} AS t ({listed([*names, RECEIPT_COLUMN])})
    SELECT {listed(names, "g.")}, g."__receipt__" FROM given AS g JOIN made USING ("__receipt__")
    WHERE g."__full__" {order}
    {conflict_clause(table)} RETURNING t.{quoted(RECEIPT_COLUMN)}
)
SELECT "__receipt__" AS receipt, 1 / (CASE WHEN (SELECT count(*) FROM put){kept} =
    (SELECT count(*) FROM given AS g JOIN made USING ("__receipt__") WHERE g."__full__") THEN 1 ELSE 0 END) AS complete
FROM made"""  # noqa: S608  - identifiers are quoted
