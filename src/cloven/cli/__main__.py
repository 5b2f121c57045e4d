"""``python -m cloven.cli``."""

from cloven.cli.application import main

main()
