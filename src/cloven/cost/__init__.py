"""Cost of a divided model: profiles of devices and links, clusters, and the simulator that estimates a program."""
