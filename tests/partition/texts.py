"""A plan as a person writes it, without a word of what its links do."""

from __future__ import annotations

PLAN = """
devices = ["edge0", "edge1", "edge-2"]
[model]
name = "lenet5"
input = [1, 28, 28]
classes = 10
[strategy]
kind = "vertical"
cuts = ["conv2", "pool2"]
"""
