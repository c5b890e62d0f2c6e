"""Histories of every workflow, recorded once and replayed against today's code."""
