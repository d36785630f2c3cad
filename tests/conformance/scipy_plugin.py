"""A pytest plugin: puts stableops' functions in the place of SciPy's before SciPy's tests import them."""

import scipy.special
from scipy._lib._array_api import xp_capabilities_table

import stableops as so


# SciPy reduces over all axes by default, and its functions take no other keywords.
def logsumexp(a, axis=None, b=None, keepdims=False, return_sign=False):
    return so.logsumexp(a, axis, b=b, keepdims=keepdims, return_sign=return_sign)


def softmax(x, axis=None):
    return so.softmax(x, axis)


def log_softmax(x, axis=None):
    return so.log_softmax(x, axis)


for function in (logsumexp, softmax, log_softmax):
    original = getattr(scipy.special, function.__name__)
    xp_capabilities_table[function] = xp_capabilities_table[original]
    setattr(scipy.special, function.__name__, function)
