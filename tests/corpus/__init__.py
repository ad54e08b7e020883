"""Small hostile files, written byte by byte by the standard library alone, and the outcome pinned for each.

`make.py` lists them all, `outcomes.txt` is the table of outcomes, `images/` and `archives/` are the files.
"""
