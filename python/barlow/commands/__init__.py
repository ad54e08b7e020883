"""Here: subcommands of `barlow` that work on images and on runs that exist: their flags, help and words.

Not here: the work itself; training, and which subcommands there are (cli.py).
"""
