"""What logits alone say about how sure a model is; nothing here needs Keras."""

import numpy as np
from scipy import special


def highest_probability(logits: np.ndarray) -> np.ndarray:
    """Return the highest of the probabilities, ``(N,)`` (Hendrycks and Gimpel, arXiv 1610.02136).

    Args:
        logits: float ``(N, K)``.
    """
    return special.softmax(logits.astype(np.float64), axis=1).max(axis=1)


def negative_energy(logits: np.ndarray) -> np.ndarray:
    """Return the logarithm of the summed exponentials, ``(N,)`` (Liu et al., arXiv 2010.03759).

    Unlike the probabilities it knows how large the logits are, not only how far apart.

    Args:
        logits: float ``(N, K)``.
    """
    return special.logsumexp(logits.astype(np.float64), axis=1)


FROM_LOGITS = {"highest probability": highest_probability, "energy": negative_energy}
"""Scores that are higher for what looks like the training images, by name (notebook 06)."""
