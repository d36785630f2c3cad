"""Fold what prediction does not need into what it does."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np

from stableops.nn._activation import Dropout, ReLU
from stableops.nn._containers import Residual, Sequential, output_layer
from stableops.nn._convolution import Conv2d, pair
from stableops.nn._linear import Linear
from stableops.nn._norm import BatchNorm2d
from stableops.nn._pooling import AvgPool2d, MaxPool2d

if TYPE_CHECKING:
    from stableops.nn._module import Module

__all__ = ["compile_residual", "compile_sequence", "fold", "keeps_size"]


def compile_sequence(original: Module, clone: Sequential) -> Sequential:
    """Fold neighbours of a compiled copy of a sequence.

    Parameters
    ----------
    original, clone : Sequential
        A sequence, and a copy of it with compiled children.

    Returns
    -------
    Sequential
        The copy.
    """
    order = getattr(original, "body", tuple(original.children()))
    left: list[str] = []
    for name in order:
        module = getattr(clone, name)
        before = getattr(clone, left[-1]) if left else None
        if isinstance(module, BatchNorm2d) and isinstance(before, Conv2d) and not before.rectify:
            setattr(clone, left[-1], fold(before, module))
            delattr(clone, name)
        elif isinstance(module, Dropout):
            delattr(clone, name)
        elif isinstance(module, ReLU) and (layer := _rectifies(before)):
            layer.rectify = True
            layer.fresh_output = False
            delattr(clone, name)
        else:
            if isinstance(module, ReLU):
                module.in_place = before is not None and before.fresh_output
                if isinstance(before, BatchNorm2d):
                    before.rectify = module.done_before = True
            if before is not None and _gives_new_array(before):
                _give_input(module)
            left.append(name)
    if isinstance(clone, Residual):
        clone.body = tuple(left)
    else:
        clone.order = tuple(left)
    return clone


def compile_residual(clone: Residual) -> Residual:
    """Let the last convolution of a compiled body add to the shortcut.

    Parameters
    ----------
    clone : Residual
        With a folded body.

    Returns
    -------
    Residual
        The same.
    """
    last = getattr(clone, clone.body[-1]) if clone.body else None
    clone.adds_in_place = type(last) is Conv2d and keeps_size(last) and not last.rectify
    clone.owns_shortcut = clone.downsample is not None and _gives_new_array(clone.downsample)
    return clone


def _rectifies(module: Module | None) -> Conv2d | Linear | None:
    if module is None or isinstance(module, (Conv2d, Linear)):
        return module
    return output_layer(module)


def _gives_new_array(module: Module) -> bool:
    """Whether nobody else has its output, in prediction."""
    if type(module) is Sequential:
        return len(module) > 0 and _gives_new_array(module[-1])
    return isinstance(module, (Conv2d, MaxPool2d, AvgPool2d, Residual))


def _give_input(module: Module) -> None:
    """Let it write over its input, in prediction."""
    if type(module) is Sequential and len(module):
        _give_input(module[0])
    elif isinstance(module, Residual) and module.downsample is None:
        module.owns_shortcut = True


def keeps_size(module: Module) -> bool:
    """Whether images go out as large as they come in."""
    if type(module) is Sequential:
        return all(map(keeps_size, module))
    if isinstance(module, (Conv2d, MaxPool2d)):
        window, padding = module.window(), module.settings["padding"]
        if isinstance(padding, str):
            return padding == "same" and window[1] == (1, 1)
        sides = [sum(side) if isinstance(side, tuple) else 2 * side for side in pair(padding)]
        return window == ((sides[0] + 1, sides[1] + 1), (1, 1))
    return isinstance(module, ReLU)


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
