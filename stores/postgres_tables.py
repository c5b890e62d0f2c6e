"""Tables from models: created if they are absent, verified if they are there, never altered.

Guarantee: workers that start together create a table once; a table that cannot hold every row of its model is
refused before the first row, with every difference spelled out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from contracts.errors import TableMismatchError
from contracts.table import RECEIPT_COLUMN, Column

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    from contracts.table import Table

RECEIPTS = '"public"."pipeline_receipts"'
CREATE_RECEIPTS = f"""
CREATE TABLE IF NOT EXISTS {RECEIPTS} (
    receipt uuid PRIMARY KEY,
    pipeline text NOT NULL,
    unit text NOT NULL,
    state text NOT NULL DEFAULT 'stored',
    fingerprint text NOT NULL,
    result text NOT NULL,
    committed_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT pipeline_receipts_state CHECK (state IN ('stored', 'dead', 'discarded'))
)"""
# Tables of earlier versions had a column that nothing read. All of this changes the catalog only: NOT VALID, because
# a look at every old row would lock the table for as long as that takes. Rows written from now on are checked.
MIGRATE_RECEIPTS = f"""
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_attribute
               WHERE attrelid = '{RECEIPTS}'::regclass AND attname = 'state' AND NOT attisdropped) THEN
        RETURN;
    END IF;
    SET LOCAL lock_timeout = '5s';
    IF EXISTS (SELECT FROM pg_catalog.pg_attribute
               WHERE attrelid = '{RECEIPTS}'::regclass AND attname = 'kind' AND NOT attisdropped) THEN
        ALTER TABLE {RECEIPTS} RENAME COLUMN kind TO state;
    ELSE
        ALTER TABLE {RECEIPTS} ADD COLUMN state text NOT NULL DEFAULT 'stored';
    END IF;
    ALTER TABLE {RECEIPTS} ADD CONSTRAINT pipeline_receipts_state
        CHECK (state IN ('stored', 'dead', 'discarded')) NOT VALID;
END $$"""  # noqa: S608  - a constant
FAILURES = '"public"."pipeline_failures"'
CREATE_FAILURES = f"""
CREATE TABLE IF NOT EXISTS {FAILURES} (
    receipt uuid PRIMARY KEY,
    pipeline text NOT NULL,
    unit text NOT NULL,
    attempts integer NOT NULL,
    error_type text NOT NULL,
    message text NOT NULL,
    first_at timestamp with time zone NOT NULL DEFAULT now(),
    last_at timestamp with time zone NOT NULL DEFAULT now()
)"""
FIND_LEDGER = f"""
SELECT to_regclass('{FAILURES}') IS NOT NULL AND EXISTS (
    SELECT FROM pg_catalog.pg_attribute
    WHERE attrelid = to_regclass('{RECEIPTS}') AND attname = 'state' AND NOT attisdropped)"""  # noqa: S608  - constants
# Every creation of a table waits for this one lock: IF NOT EXISTS alone fails when two sessions race.
CREATION_LOCK = 0x70697065_6C696E65
MINIMUM_VERSION = 18

FIND_COLUMNS = """
SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type, NOT a.attnotnull AS nullable,
       a.attgenerated <> '' OR a.attidentity = 'a' AS computed,
       a.atthasdef OR a.attidentity <> '' AS defaulted
FROM pg_catalog.pg_attribute AS a
WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum"""
# An index that ON CONFLICT can infer: whole, plain columns, checked at once.
FIND_KEYS = """
SELECT i.indisprimary AS is_primary,
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute AS a
             WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1])) AS columns
FROM pg_catalog.pg_index AS i
WHERE i.indrelid = $1::oid AND i.indisunique AND i.indimmediate AND i.indisvalid
  AND i.indpred IS NULL AND i.indexprs IS NULL"""
FIND_TABLE = """
SELECT c.oid, c.relkind::text AS kind FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2"""


def quoted(name: str) -> str:
    """Quote an identifier."""
    return '"' + name.replace('"', '""') + '"'


def listed(names: Sequence[str], prefix: str = "") -> str:
    """Quote identifiers and separate them by commas; `prefix` goes before each, such as `t.`."""
    return ", ".join(prefix + quoted(name) for name in names)


def table_name(table: Table) -> str:
    """Name a table with its schema, quoted."""
    return f"{quoted(table.schema)}.{quoted(table.name)}"


def column_names(table: Table) -> list[str]:
    """Name the model's columns, in order."""
    return [column.name for column in table.columns]


def create_statement(table: Table) -> str:
    """Write the DDL of a table: the model's columns, the receipt, the key."""
    lines = [
        f"{quoted(column.name)} {column.type}{'' if column.nullable else ' NOT NULL'}" for column in columns_of(table)
    ]
    if table.key is not None:
        lines.append(f"PRIMARY KEY ({listed(table.key)})")
    return f"CREATE TABLE {table_name(table)} (\n    " + ",\n    ".join(lines) + "\n)"


def columns_of(table: Table) -> list[Column]:
    """List every column that a table needs, the receipt being the last."""
    return [*table.columns, Column(name=RECEIPT_COLUMN, type="uuid", nullable=False)]


async def ensure_table(connection: PoolConnectionProxy[asyncpg.Record], table: Table, *, receipts: bool) -> None:
    """Create the table, and the receipts' if they are used, or verify what is there.

    Raises `TableMismatchError`. A role without the right to create is fine where nothing has to be created.
    """
    version = connection.get_server_version().major
    if version < MINIMUM_VERSION:
        message = f"PostgreSQL {version} is too old: {MINIMUM_VERSION} or later is needed"
        raise TableMismatchError(message)
    if receipts:
        await ensure_ledger(connection)
    if not await find_table(connection, table):
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", CREATION_LOCK)
            if not await find_table(connection, table):
                if not await connection.fetchval("SELECT to_regnamespace($1) IS NOT NULL", quoted(table.schema)):
                    await connection.execute(f"CREATE SCHEMA {quoted(table.schema)}")
                await connection.execute(create_statement(table))
    differences = await find_differences(connection, table)
    if differences:
        message = (
            f"table {table.schema}.{table.name} does not match the model: {'; '.join(differences)}. "
            "Change the table or the model, or name another table"
        )
        raise TableMismatchError(message)


async def ensure_ledger(connection: PoolConnectionProxy[asyncpg.Record]) -> None:
    """Create the tables of receipts and failures, or bring those of an earlier version up to date."""
    if await connection.fetchval(FIND_LEDGER):
        return
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", CREATION_LOCK)
        for statement in (CREATE_RECEIPTS, MIGRATE_RECEIPTS, CREATE_FAILURES):
            await connection.execute(statement)


async def find_table(connection: PoolConnectionProxy[asyncpg.Record], table: Table) -> asyncpg.Record | None:
    """Look the table up in the catalog."""
    return await connection.fetchrow(FIND_TABLE, table.schema, table.name)


async def find_differences(connection: PoolConnectionProxy[asyncpg.Record], table: Table) -> list[str]:
    """Compare a table with the model, in words."""
    found = await find_table(connection, table)
    if found is None:
        return ["it has just been dropped"]
    if found["kind"] not in {"r", "p"}:
        return ["it is no table but a view, an index, a sequence or a foreign table"]
    columns = {row["name"]: row for row in await connection.fetch(FIND_COLUMNS, found["oid"])}
    wanted = columns_of(table)
    differences = [text for column in wanted for text in column_differences(column, columns.get(column.name))]
    names = {column.name for column in wanted}
    differences += [
        f"column {name} ({row['type']}) is not in the model, is NOT NULL and has no default"
        for name, row in columns.items()
        if name not in names and not row["nullable"] and not row["defaulted"]
    ]
    keys = await connection.fetch(FIND_KEYS, found["oid"])
    return differences + key_differences(table, keys)


def column_differences(column: Column, found: asyncpg.Record | None) -> list[str]:
    """Compare one column with what the catalog says of it."""
    if found is None:
        return [f"column {column.name} ({column.type}) is missing"]
    differences = []
    if found["type"] != column.type:
        differences.append(f"column {column.name} is {found['type']}, the model needs {column.type}")
    if found["nullable"] != column.nullable:
        has, needs = ("may be", "may not be") if found["nullable"] else ("may not be", "may be")
        differences.append(f"column {column.name} {has} NULL, in the model it {needs}")
    if found["computed"]:
        differences.append(f"column {column.name} is generated by PostgreSQL, the model gives it")
    return differences


def key_differences(table: Table, found: Sequence[asyncpg.Record]) -> list[str]:
    """Compare the key with the table's unique indexes; further ones are the user's own constraints."""
    if table.key is not None:
        if any(set(row["columns"]) == set(table.key) for row in found):
            return []
        return [f"no primary key or unique index is on ({', '.join(table.key)})"]
    names = set(column_names(table))
    return [
        f"it has a primary key on ({', '.join(row['columns'])}), the pipeline declares key=None"
        for row in found
        if row["is_primary"] and set(row["columns"]) <= names
    ]
