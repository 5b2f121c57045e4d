"""Drawing what was measured: number words, charts, pictures, and the page that holds them.

Nothing here measures or decides: it reads a summary (plain JSON values) and shows it.
"""
