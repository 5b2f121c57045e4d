"""Run the first part of a model in a trusted half, after the owner has released the key to the measured program."""
