"""Run programs: in this process, from bundles, or on a cluster of workers."""
