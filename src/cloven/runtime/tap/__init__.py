"""The listener: records the packets of a link and reads them as an attacker would, without model and keys."""
