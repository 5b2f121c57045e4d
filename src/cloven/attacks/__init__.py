"""Attacks: from captured tensors back to images. Knows tensors and nothing of plans.

An attack is a frozen dataclass of hyper-parameters with one method, ``fit(pairs, *, generator)``, which gives a
reconstructor: a function from captured tensors, a list of ``(n, ...)``, to images ``(n, C, H, W)`` in [0, 1].
"""
