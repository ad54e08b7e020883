"""Here: objectives, one file each, pure functions of the embeddings of the global batch.

Not here: models, optimizers, anything that keeps state.
"""

from barlow.objectives.barlow_twins import barlow_twins, cross_correlation, loss_floor

__all__ = ["barlow_twins", "cross_correlation", "loss_floor"]
