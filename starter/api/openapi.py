"""The OpenAPI document, written from the pipelines' own models.

Guarantee: every pipeline has paths of its own, so that generated clients have a typed call for each; a document shows
the pipelines of its reader's key and no others; every status that a handler can answer with is in it.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pydantic.errors import PydanticInvalidForJsonSchema

from activities.validate import MOST_BYTES
from starter.api import problems
from starter.api.records import KEY_PATTERN, LONGEST_WAIT
from starter.requests import DEADLINE, LONGEST_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel

    from contracts.pipeline import Pipeline

Document = dict[str, Any]

SCHEMAS = "#/components/schemas/"
HEADERS = "#/components/headers/"
RESPONSES = "#/components/responses/"
JSON = "application/json"
FILE_TYPES = ("text/csv", "application/x-ndjson", "application/gzip", "application/octet-stream")
LIMIT_PATTERN = r"^([0-9]{1,9}|([0-9]{1,2}(\.[0-9]{1,6})?|100)%)$"
COUNTS = ("read", "written", "rejected", "duplicates", "dropped")
ANYWHERE = (problems.BAD_REQUEST, problems.NOT_FOUND, problems.INTERNAL, problems.UNAVAILABLE, problems.OVERLOADED)
BODIES = (problems.TOO_SLOW, problems.UNSUPPORTED)


def describe(pipelines: Mapping[str, Pipeline], *, keys: bool) -> Document:
    """Write the document for a caller who may use these pipelines."""
    schemas: Document = {**fixed_schemas()}
    paths: Document = {}
    entrance = problems.UNAUTHORIZED if keys else problems.FORBIDDEN
    for name, pipeline in pipelines.items():
        record = add_schema(schemas, f"{name}.record", pipeline.record)
        row = add_schema(schemas, f"{name}.row", pipeline.row)
        schemas[f"{name}.answer"] = answer_schema(row)
        paths[f"/pipelines/{name}/records"] = {"post": record_operation(name, record, entrance)}
        paths[f"/pipelines/{name}/files"] = {"post": file_operation(name, entrance)}
    paths |= ticket_paths(entrance) | question_paths(entrance)
    document: Document = {
        "openapi": "3.1.0",
        "info": {
            "title": "durable-pipelines",
            "version": version("durable-pipelines"),
            "description": "Validated records and files in, exactly once out. A ticket tells what became of each.",
        },
        "paths": paths,
        "components": {"schemas": schemas, "headers": headers(), "responses": problem_responses()},
    }
    if keys:
        document["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        document["security"] = [{"bearer": []}, {"header": []}]
    return document


def add_schema(schemas: Document, name: str, model: type[BaseModel]) -> Document:
    """Add a model and what it refers to, under names that no other pipeline's models can have; returns a reference."""
    prefix = f"{name}."
    try:
        schema = model.model_json_schema(ref_template=f"{SCHEMAS}{prefix}{{model}}")
    except PydanticInvalidForJsonSchema:
        # A type of the user's own may have no schema: the record is described in words then, and validated as ever.
        schema = {"type": "object", "description": f"A {model.__name__}, which has no JSON schema."}
    for inner, definition in schema.pop("$defs", {}).items():
        schemas[prefix + inner] = definition
    schemas[name] = schema
    return {"$ref": SCHEMAS + name}


def record_operation(name: str, record: Document, entrance: problems.Kind) -> Document:
    """Describe `POST .../records` of one pipeline."""
    answer = {"$ref": f"{SCHEMAS}{name}.answer"}
    kinds = (*ANYWHERE, *BODIES, entrance, problems.CONFLICT, problems.TOO_LARGE, problems.REJECTED)
    return {
        "operationId": f"send_{name}_record",
        "summary": f"Send one record through {name}",
        "tags": [name],
        "parameters": [
            {
                "name": "wait",
                "in": "query",
                "description": f"Seconds to wait for the outcome, {DEADLINE.total_seconds():g} by default.",
                "schema": {"type": "number", "minimum": 0, "maximum": LONGEST_WAIT},
            },
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "Repeats with the same key are one request. Without it each call is a new one.",
                "schema": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": LONGEST_KEY,
                    "pattern": KEY_PATTERN,
                },
            },
            {
                "name": "Prefer",
                "in": "header",
                "description": "`respond-async` answers as soon as the record is held; `wait=N` waits so many seconds.",
                "schema": {"type": "string"},
                "example": "respond-async",
            },
        ],
        "requestBody": {"required": True, "content": {JSON: {"schema": record}}},
        "responses": {
            "200": success("It was committed before, by a request with this key.", answer, "answer"),
            "201": success("It is committed; `record` is null if the pipeline dropped it.", answer, "answer"),
            "202": success("It is held durably, and goes on under its ticket.", answer, "answer"),
            **refusals(kinds),
        },
    }


def file_operation(name: str, entrance: problems.Kind) -> Document:
    """Describe `POST .../files` of one pipeline."""
    flag = {"type": "boolean"}
    parameters = {
        "filename": ("What the file is called.", {"type": "string", "pattern": r"^[A-Za-z0-9._-]{1,200}$"}),
        "max_rejects": ("Load nothing if more rows are rejected.", {"type": "string", "pattern": LIMIT_PATTERN}),
        "on_rejects": ("What to do after the last row.", {"type": "string", "enum": ["finish", "wait"]}),
        "dry_run": ("Validate only.", flag),
        "again": ("Load the same file once more, under a new ticket.", flag),
    }
    ticket = {"$ref": f"{SCHEMAS}Ticket"}
    content = {kind: {"schema": {"type": "string", "format": "binary", "minLength": 1}} for kind in FILE_TYPES}
    return {
        "operationId": f"send_{name}_file",
        "summary": f"Store a file, and load it into {name}",
        "tags": [name],
        "parameters": [
            {"name": parameter, "in": "query", "description": words, "schema": schema}
            for parameter, (words, schema) in parameters.items()
        ],
        "requestBody": {"required": True, "content": content},
        "responses": {
            "200": success("The same file was sent before: this is its load.", ticket, "ticket"),
            "202": success("The file is stored, and its load goes on under its ticket.", ticket, "ticket"),
            **refusals((*ANYWHERE, *BODIES, entrance, problems.REJECTED)),
        },
    }


def ticket_paths(entrance: problems.Kind) -> Document:
    """Describe what is under `/tickets`."""
    ticket = {"$ref": f"{SCHEMAS}Ticket"}
    parameter = {
        "name": "ticket",
        "in": "path",
        "required": True,
        "description": "A ticket as it was given; its slashes may be encoded.",
        "schema": {"type": "string", "minLength": 1},
        "example": f"upload/flights/{'0' * 32}",
    }
    shared = refusals((*ANYWHERE, entrance))
    state = {"description": "How the ticket stands.", "content": {JSON: {"schema": ticket}}}
    rejects = {"description": "The rejected rows.", "content": {"text/csv": {"schema": {"type": "string"}}}}
    return {
        "/tickets/{ticket}": {
            "parameters": [parameter],
            "get": {
                "operationId": "get_ticket",
                "summary": "Say how a ticket stands",
                "tags": ["tickets"],
                "responses": {"200": state, **shared},
            },
        },
        "/tickets/{ticket}/rejects": {
            "parameters": [parameter],
            "get": {
                "operationId": "get_rejects",
                "summary": "Give the rejected rows of a file, as a CSV that can be corrected and sent again",
                "tags": ["tickets"],
                "responses": {"200": rejects, "204": {"description": "No row is rejected so far."}, **shared},
            },
        },
        "/tickets/{ticket}/cancel": {
            "parameters": [parameter],
            "post": {
                "operationId": "cancel_ticket",
                "summary": "Ask for the end of a request or a load; what is committed stays",
                "tags": ["tickets"],
                "responses": {
                    "200": {**state, "description": "It was cancelled before."},
                    "202": {**state, "description": "It is asked for."},
                    **shared,
                    **refusals((problems.NOT_POSSIBLE,)),
                },
            },
        },
    }


def question_paths(entrance: problems.Kind) -> Document:
    """Describe the paths that need no workflow."""

    def get(identifier: str, summary: str, schema: Document, kinds: tuple[problems.Kind, ...]) -> Document:
        answer = {"description": summary, "content": {JSON: {"schema": schema}}}
        responses = {"200": answer, **refusals(kinds)}
        return {"get": {"operationId": identifier, "summary": summary, "tags": ["server"], "responses": responses}}

    common = (problems.BAD_REQUEST, problems.INTERNAL)
    listed = {"$ref": f"{SCHEMAS}Pipelines"}
    alive = get("healthz", "The process lives", {"$ref": f"{SCHEMAS}Health"}, common)
    ready = get("readyz", "Its services answer", {"$ref": f"{SCHEMAS}Health"}, (*common, problems.UNAVAILABLE))
    for path in (alive, ready):
        path["get"]["security"] = []
    return {
        "/pipelines": get("list_pipelines", "What the key may use", listed, (*common, entrance)),
        "/healthz": alive,
        "/readyz": ready,
    }


def success(description: str, schema: Document, body: str) -> Document:
    """Describe a success with a ticket, and the way to what the ticket says."""
    named = ("Location",) if body == "ticket" else ("Location", "Idempotency-Key", "Preference-Applied")
    return {
        "description": description,
        "headers": {name: {"$ref": HEADERS + name} for name in named},
        "content": {JSON: {"schema": schema}},
        "links": {"ticket": {"operationId": "get_ticket", "parameters": {"ticket": "$response.body#/ticket"}}},
    }


def refusals(kinds: tuple[problems.Kind, ...]) -> Document:
    """Refer to the answers of some kinds of problems, by status."""
    statuses = sorted(str(kind.status) for kind in kinds)
    return {status: {"$ref": RESPONSES + status} for status in statuses}


def problem_responses() -> Document:
    """Describe each status that is a problem."""
    found: Document = {}
    for kind in problems.KINDS:
        known = found.setdefault(str(kind.status), {"description": ""})
        known["description"] = f"{known['description']}; {kind.title}".removeprefix("; ")
        known["content"] = {problems.MEDIA_TYPE: {"schema": {"$ref": f"{SCHEMAS}Problem"}}}
    for status in ("429", "503"):
        found[status]["headers"] = {"Retry-After": {"$ref": f"{HEADERS}Retry-After"}}
    return found


def headers() -> Document:
    """Describe the headers of answers."""
    words = {
        "Location": "The ticket's path.",
        "Idempotency-Key": "The request's key, which a repeat needs; a new one if none was given.",
        "Preference-Applied": "What was preferred and is done.",
        "Retry-After": "Seconds after which a repeat makes sense.",
    }
    return {name: {"description": text, "schema": {"type": "string"}} for name, text in words.items()}


def answer_schema(row: Document) -> Document:
    """Describe what the sender of a record is told."""
    return closed(
        {
            "ticket": {"type": "string"},
            "key": {"type": "string"},
            "status": {"type": "string", "enum": ["committed", "accepted"]},
            "repeat": {"type": "boolean"},
            "record": {"anyOf": [row, {"type": "null"}], "description": "The stored row, if it is committed."},
        }
    )


def fixed_schemas() -> Document:
    """Describe what is the same for all pipelines."""
    text = {"type": "string"}
    count = {"type": "integer", "minimum": 0}
    error = closed({"field": text, "code": text, "message": text})
    errors = {"type": "array", "items": {"$ref": f"{SCHEMAS}FieldError"}}
    names = [kind.name for kind in problems.KINDS]
    statuses = ["running", "waiting", "completed", "failed", "cancelled", "stopped"]
    problem = closed(
        {
            "type": {"type": "string", "enum": [problems.URN + name for name in names]},
            "title": text,
            "status": {"type": "integer"},
            "detail": text,
            "errors": errors,
        }
    )
    problem["required"].remove("errors")
    problem["description"] = (
        f"As in RFC 9457. `errors` says what is wrong with a record, of {MOST_BYTES} bytes at most."
    )
    return {
        "FieldError": error,
        "Problem": problem,
        "Health": closed({"status": {"type": "string", "enum": ["alive", "ready"]}}),
        "Pipelines": closed(
            {"pipelines": {"type": "array", "items": closed({"name": text, "records": text, "files": text})}}
        ),
        "Ticket": closed(
            {
                "ticket": text,
                "pipeline": text,
                "pattern": {"type": "string", "enum": ["submit", "enqueue", "upload"]},
                "status": {"type": "string", "enum": statuses},
                "reason": text,
                "counts": closed(dict.fromkeys(COUNTS, count)),
                "record": {"type": ["object", "null"]},
                "errors": errors,
                "rejects": {"type": ["string", "null"]},
            }
        ),
    }


def closed(properties: Document) -> Document:
    """Describe an object that has exactly these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
