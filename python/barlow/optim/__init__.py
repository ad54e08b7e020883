"""Here: LARS, AdamW, which one a backbone gets, and learning rates as functions of the step.

Not here: the training loop, gradients, models.
"""

from barlow.optim.adamw import AdamW, choose_optimizer, doubts
from barlow.optim.lars import LARS, parameter_groups
from barlow.optim.norms import StepNorms, step_norms
from barlow.optim.schedule import Rates, learning_rate, true_gradient_rates

__all__ = [
    "LARS",
    "AdamW",
    "Rates",
    "StepNorms",
    "choose_optimizer",
    "doubts",
    "learning_rate",
    "parameter_groups",
    "step_norms",
    "true_gradient_rates",
]
