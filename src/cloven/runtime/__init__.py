"""Run a program: in this process, with taps that record what crosses its links."""
