"""The pipelines that are loaded by default: every module of this package. A new pipeline is a new file here."""
