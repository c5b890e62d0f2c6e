"""The patterns as Temporal workflows, one module each; deterministic, and free of user code."""
