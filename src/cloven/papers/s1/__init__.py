"""S1: its layers, decoders, experiments and figures, and what it says beside what is measured here."""
