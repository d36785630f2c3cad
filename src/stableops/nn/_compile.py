"""Fold what prediction does not need into what it does."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np

from stableops.nn._activation import Dropout, ReLU
from stableops.nn._convolution import Conv2d
from stableops.nn._norm import BatchNorm2d

if TYPE_CHECKING:
    from stableops.nn._module import Module

__all__ = ["compile_sequence", "fold"]


def compile_sequence(original: Module, clone: Module) -> Module:
    """Fold neighbours of a compiled copy of a sequence.

    Parameters
    ----------
    original, clone : Module
        A sequence, and a copy of it with compiled children.

    Returns
    -------
    Module
        The copy.
    """
    order = getattr(original, "body", tuple(original.children()))
    left: list[str] = []
    for name in order:
        module = getattr(clone, name)
        before = getattr(clone, left[-1]) if left else None
        if isinstance(module, BatchNorm2d) and isinstance(before, Conv2d):
            setattr(clone, left[-1], fold(before, module))
            delattr(clone, name)
        elif isinstance(module, Dropout):
            delattr(clone, name)
        else:
            if isinstance(module, ReLU):
                module.in_place = before is not None and before.fresh_output
            left.append(name)
    if hasattr(original, "body"):
        vars(clone)["body"] = tuple(left)
    return clone


def fold(conv: Conv2d, norm: BatchNorm2d) -> Conv2d:
    """Put a batch norm with running statistics into the convolution before it.

    norm(conv(x)) = scale * (conv(x) - mean) + shift with scale = weight / sqrt(var + eps), computed
    in float64 and rounded once.

    Parameters
    ----------
    conv : Conv2d
        Unchanged.
    norm : BatchNorm2d
        Of its channels.

    Returns
    -------
    Conv2d
        With a bias.
    """
    folded = copy.copy(conv)
    folded._packed = None
    scale = 1 / np.sqrt(norm.running_var.astype(np.float64) + norm.eps)
    if norm.weight is not None:
        scale *= norm.weight
    bias = (
        -norm.running_mean.astype(np.float64)
        if conv.bias is None
        else conv.bias - norm.running_mean.astype(np.float64)
    )
    bias = bias * scale
    if norm.bias is not None:
        bias += norm.bias
    folded.weight = (conv.weight * scale[:, None, None, None]).astype(conv.weight.dtype)
    folded.bias = bias.astype(conv.weight.dtype)
    return folded
