"""Workflows over in-memory stores, with real activities and a real server whose clock is skipped."""
