"""Protection of links: ciphers, session keys, and frames that detect changes, replays and reordering."""
