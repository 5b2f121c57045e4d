"""Audits: cells (observation x attack x seed), run in parallel and kept in a folder, so that audits can resume."""
