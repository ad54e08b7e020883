"""Training: `launch` checks and starts a run; `loop.train` is one rank of it."""

from barlow.train.launch import launch

__all__ = ["launch"]
