"""Capture a model as a graph of ops, and the table that says what each op needs, costs and becomes when divided.

Imports nothing else of cloven's rooms.
"""
