"""The starter as a library, over a real Temporal server and stores in memory."""
