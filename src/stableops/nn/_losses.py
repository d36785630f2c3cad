"""Losses as objects that keep their gradient."""

from __future__ import annotations

from typing import Any

import stableops as F
from stableops.nn._module import Array

__all__ = ["BCEWithLogitsLoss", "CrossEntropyLoss"]


class _Loss:
    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self._gradient: Array | None = None

    def backward(self) -> Array:
        """Gradient of the last loss with respect to the logits."""
        if self._gradient is None:
            msg = f"{type(self).__name__}: compute a loss before its gradient"
            raise RuntimeError(msg)
        return self._gradient


class CrossEntropyLoss(_Loss):
    """Softmax and cross entropy, :func:`stableops.softmax_cross_entropy`, averaged.

    Parameters
    ----------
    weight, ignore_index, label_smoothing
        As in :func:`stableops.softmax_cross_entropy`.

    Examples
    --------
    >>> import numpy as np
    >>> from stableops import nn
    >>> criterion = nn.CrossEntropyLoss()
    >>> criterion(np.array([[40.0, 0.0, 0.0]]), np.array([0]))
    8.496708510583178e-18
    >>> criterion.backward()
    array([[-8.49670851e-18,  4.24835426e-18,  4.24835426e-18]])
    """

    def __init__(
        self, weight: Any = None, ignore_index: int = -100, label_smoothing: float = 0.0
    ) -> None:
        super().__init__(
            weight=weight, ignore_index=ignore_index, label_smoothing=label_smoothing, axis=1
        )

    def __call__(self, logits: Array, labels: Any) -> float:
        """Compute the mean loss of a batch of logits (N, classes, ...) and labels (N, ...)."""
        loss, self._gradient = F.softmax_cross_entropy(
            logits, labels, **self.settings, return_grad=True
        )
        return float(loss)


class BCEWithLogitsLoss(_Loss):
    """Sigmoid and cross entropy, :func:`stableops.sigmoid_cross_entropy`, averaged.

    Parameters
    ----------
    weight, pos_weight
        As in :func:`stableops.sigmoid_cross_entropy`.

    Examples
    --------
    >>> import numpy as np
    >>> from stableops import nn
    >>> nn.BCEWithLogitsLoss()(np.array([40.0]), np.array([1.0]))
    4.248354255291589e-18
    """

    def __init__(self, weight: Any = None, pos_weight: Any = None) -> None:
        super().__init__(weight=weight, pos_weight=pos_weight)

    def __call__(self, logits: Array, labels: Any) -> float:
        """Compute the mean loss of logits and labels of the same shape."""
        loss, self._gradient = F.sigmoid_cross_entropy(
            logits, labels, **self.settings, return_grad=True
        )
        return float(loss)
