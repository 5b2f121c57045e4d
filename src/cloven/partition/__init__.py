"""Division of a graph over devices: a strategy decides what each device owns, and the compiler makes a program.

It imports only `graph`, and does not need torch.
"""
