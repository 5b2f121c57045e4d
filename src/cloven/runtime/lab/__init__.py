"""A laboratory on one machine: each party in its own network namespace, links with a given bandwidth and delay."""
