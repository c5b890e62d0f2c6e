"""Tests of the embedded stack, on the real servers."""
