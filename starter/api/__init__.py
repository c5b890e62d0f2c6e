"""The HTTP API: records and files over HTTP, with the answers of `submit`, `enqueue`, `upload` and `status`.

Guarantee: a process of it keeps nothing. "Created" and "accepted" are said only about what Temporal or the object
store hold, so any of several processes may be killed at any time; a repeat with the same Idempotency-Key settles
what became of a request whose answer was lost.
"""
