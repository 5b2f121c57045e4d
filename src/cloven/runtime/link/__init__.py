"""Protection per link: ciphers, session keys, and frames that cannot be changed, replayed or reordered unseen."""
