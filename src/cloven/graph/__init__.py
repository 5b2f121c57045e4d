"""The graph of a model's ops, and the table of what each op needs, costs and becomes when it is divided.

It imports no other package of cloven.
"""
