"""Plans as a person writes them."""

from __future__ import annotations

LENET5 = """[model]
name = "lenet5"
input = [1, 28, 28]
classes = 10
[strategy]
kind = "vertical"
"""
"""The model of the plans here, and how they divide it."""

PLAN = f"""
devices = ["edge0", "edge1", "edge-2"]
{LENET5}cuts = ["conv2", "pool2"]
"""
"""Without a word of what its links do."""

THREE_MISTAKES = f"""
version = 1
devices = ["a", "b", "a"]
colour = "red"
{LENET5}cuts = ["conv2", "convv1"]
"""
"""A device twice, a word that no plan has, a layer that the model has not."""
