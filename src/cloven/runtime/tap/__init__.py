"""The listener: packets of one link, recorded and read as an attacker would, with no model and no keys."""
