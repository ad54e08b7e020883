"""Here: `python -m barlow.train.node OPTIONS -- ARGUMENTS`: one machine's share of a run on several.

Not here: how its ranks start and end (ranks.py), which options there are (torchrun's).

It is what `barlow submit` runs where a person would type torchrun: signals are passed on once, however often
a scheduler sends them to each process, the ranks' own words are the only ones, and the exit code is that of
`barlow train`.
"""

from __future__ import annotations

import sys

from barlow.train.ranks import start_ranks

if __name__ == "__main__":
    place = sys.argv.index("--")
    options, arguments = sys.argv[1:place], sys.argv[place + 1 :]
    nproc = int(options[options.index("--nproc-per-node") + 1])
    start_ranks(nproc, ["-m", "barlow", "--", *arguments], options=options)
