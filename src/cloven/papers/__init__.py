"""What the two papers name, build and say. The CLI resolves names here; no other room looks them up."""
