"""S2: its Table III, its rule for where to cut, and its privacy study, beside what is measured here."""
