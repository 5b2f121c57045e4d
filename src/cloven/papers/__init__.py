"""The two papers whose experiments are reproduced: their layer names, decoders, experiments and claims.

The prefix ``s1`` stands for Mehrafrooz et al. (2025), ``s2`` for Rajasekar et al. (2024).
"""
