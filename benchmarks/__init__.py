"""Measurements that the README quotes; each module is a script."""
