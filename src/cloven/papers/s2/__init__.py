"""Rajasekar et al. (2024): Table III, the rule that chooses the cut, and the privacy study, beside measurements.

Rajasekar, Loh, Fok, Thing, "Privacy preserving layer partitioning for Deep Neural Network models",
arXiv 2404.07437. In this package, "the paper" is this one; sections, figures and tables are those of it.
"""
