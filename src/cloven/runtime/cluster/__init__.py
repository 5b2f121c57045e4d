"""A program on several machines: workers that hold a part each, and the coordinator that feeds them."""
