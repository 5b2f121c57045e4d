"""Models and data sets by name: what there is to divide, to attack with and to score on."""
