"""Audits: cells (observation x attack x seed), run side by side, kept in a folder, resumed where they stopped."""
