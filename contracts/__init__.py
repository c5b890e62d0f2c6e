"""What the parts agree on: declarations, ports, units, inputs and results, errors. Imports nothing of ours."""

from contracts.errors import DeclarationError, TerminalError, TransientError
from contracts.pipeline import Pipeline
from contracts.queue import WorkQueue
from contracts.record import FieldError, Record
from contracts.request_log import RequestLog
from contracts.table import PostgresTable

__all__ = [
    "DeclarationError",
    "FieldError",
    "Pipeline",
    "PostgresTable",
    "Record",
    "RequestLog",
    "TerminalError",
    "TransientError",
    "WorkQueue",
]
