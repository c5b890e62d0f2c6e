"""The embedded stack: Temporal, PostgreSQL, an S3 object store and NATS for development, tests and small use.

Guarantee: everything listens on loopback, lives in one folder, survives SIGKILL of every process with its data,
and nothing is touched that this folder's stack did not start.
"""

from starter.stack.errors import StackError
from starter.stack.stack import Stack

__all__ = ["Stack", "StackError"]
