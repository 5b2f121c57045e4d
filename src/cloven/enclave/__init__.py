"""A model whose first part runs in a trusted half, under a key that its owner releases to what was measured."""
