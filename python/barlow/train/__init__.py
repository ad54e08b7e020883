"""Training: `launch` checks and starts a run, `loop.train` is one rank of it."""

from barlow.train.launch import launch
from barlow.train.loop import train

__all__ = ["launch", "train"]
