"""Reports: numbers in words, charts, pictures, the HTML page, and its first screen as text.

A report reads the summary of an audit and shows it; nothing is measured here.
"""
