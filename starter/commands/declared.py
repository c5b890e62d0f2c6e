"""`pipelines`: what is declared."""

from __future__ import annotations

import typer

from starter.output import output_of


def pipelines(context: typer.Context) -> None:
    """List the declared pipelines and where their records go."""
    from starter.services import declared, load_settings

    output = output_of(context)
    found = declared(load_settings(), output).values()
    documents: list[dict[str, object]] = []
    lines: list[str] = []
    for pipeline in sorted(found, key=lambda item: item.name):
        table, log = pipeline.table, pipeline.request_log
        fields = list(pipeline.record.model_fields)
        documents.append(
            {
                "name": pipeline.name,
                "table": f"{table.schema}.{table.name}",
                "key": list(table.key) if table.key else None,
                "on_conflict": table.on_conflict,
                "fields": fields,
                "columns": [column.name for column in table.columns],
                "request_log": None if log is None else {"name": log.name, "through": log.through},
            }
        )
        how = f"key {', '.join(table.key)}; on conflict {table.on_conflict}" if table.key else "rows are appended"
        lines += [f"{pipeline.name} -> {table.schema}.{table.name} ({how})", f"  {', '.join(fields)}"]
        if log is not None:
            lines.append(f"  requests are logged in {log.name}" + (", through a queue" * (log.through == "queue")))
    output.result({"pipelines": documents}, *lines)
