"""`python -m contextae` is the command."""

from contextae.cli import main

main()
