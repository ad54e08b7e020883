"""Here: objectives, one file each, pure functions of the embeddings of the global batch.

Not here: models, optimizers, anything that keeps state.
"""

from barlow.objectives.barlow_twins import (
    barlow_twins,
    correlation_summary,
    cross_correlation,
    loss_floor,
)
from barlow.objectives.forms import Form, choose_form

__all__ = ["Form", "barlow_twins", "choose_form", "correlation_summary", "cross_correlation", "loss_floor"]
