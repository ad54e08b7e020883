"""How good is a backbone: published protocols on held-out images, beside the network untrained.

Here: what comes after training and needs labels (or says what can be said without). Not here: training
the backbone, pictures of the result.
"""

from barlow.evaluate.evaluation import evaluate

__all__ = ["evaluate"]
