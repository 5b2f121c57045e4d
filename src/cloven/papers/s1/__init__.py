"""Mehrafrooz et al. (2025): the layers, decoders, experiments and figures, and the claims beside measurements.

Mehrafrooz, Siyadatzaadeh, Mentens, Stefanov, "A Security Analysis of CNN Partitioning Strategies for Distributed
Inference at the Edge". In this package, "the paper" is this one; sections, figures and tables are those of it.
"""
