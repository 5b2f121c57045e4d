"""Plans as text."""

from __future__ import annotations

LENET5 = """[model]
name = "lenet5"
input = [1, 28, 28]
classes = 10
[strategy]
kind = "vertical"
"""
"""The model and the strategy of the plans in this file."""

PLAN = f"""
devices = ["edge0", "edge1", "edge-2"]
{LENET5}cuts = ["conv2", "pool2"]
"""
"""A plan that says nothing about its links."""

THREE_MISTAKES = f"""
version = 1
devices = ["a", "b", "a"]
colour = "red"
{LENET5}cuts = ["conv2", "convv1"]
"""
"""A plan with a device twice, an unknown entry, and a layer that the model does not have."""
