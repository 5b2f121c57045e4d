"""Checks of the source that are run by ``make lint``."""
