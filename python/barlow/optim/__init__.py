"""Here: LARS, which parameters it adapts, and learning rates as functions of the step.

Not here: the training loop, gradients, models.
"""

from barlow.optim.lars import LARS, parameter_groups
from barlow.optim.norms import StepNorms, step_norms
from barlow.optim.schedule import Rates, learning_rate, true_gradient_rates

__all__ = [
    "LARS",
    "Rates",
    "StepNorms",
    "learning_rate",
    "parameter_groups",
    "step_norms",
    "true_gradient_rates",
]
