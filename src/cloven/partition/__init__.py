"""Divide a graph over devices: strategies say who owns what, one compiler makes the program.

Imports `graph` alone, and no torch: a program is data.
"""
