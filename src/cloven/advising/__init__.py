"""Advice: the search for the division that meets limits on cost and leakage at the least cost."""
