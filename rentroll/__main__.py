"""`python -m rentroll` is the `rentroll` command."""

from rentroll.cli import main

main()
