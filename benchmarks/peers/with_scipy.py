"""SciPy's special functions."""

from __future__ import annotations

import scipy
from scipy import special


def load(_threads: int) -> str:
    return scipy.__version__


def softmax(x, *, axis):
    return lambda: special.softmax(x, axis)


softmax_on_tensors = softmax


def log_softmax(x, *, axis):
    return lambda: special.log_softmax(x, axis)


def logsumexp(x, *, axis):
    return lambda: special.logsumexp(x, axis)


def sigmoid(x):
    return lambda: special.expit(x)


def log_sigmoid(x):
    return lambda: special.log_expit(x)
