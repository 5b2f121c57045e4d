"""A laboratory on one machine: every party in a network namespace of its own, links of a given speed and delay."""
