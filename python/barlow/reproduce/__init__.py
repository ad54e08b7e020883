"""The paper's own experiments as grids of runs, at a scale of one's choice: `barlow reproduce`.

In reading order: `scales` and `experiments` say what is run, `plan` makes cells of it, `grid` has them done,
each as `cell` says, `outcome` gathers what they came to, `claims` and `findings` what that says about the
paper's conclusions; `tables` and `plots` write it down.
"""

from barlow.reproduce.command import Request, describe, listing, reproduce
from barlow.reproduce.experiments import EXPERIMENTS
from barlow.reproduce.grid import Stopped
from barlow.reproduce.scales import SCALES

__all__ = ["EXPERIMENTS", "SCALES", "Request", "Stopped", "describe", "listing", "reproduce"]
