"""`python -m starter` is the same as `starter`."""

from starter.cli import main

main()
