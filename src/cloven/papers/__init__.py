"""The two papers: their layer names, decoders, experiments and claims. The command line resolves names here."""
