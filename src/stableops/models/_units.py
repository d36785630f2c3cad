"""A convolution and what follows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stableops import nn

__all__ = ["Unit", "normalised", "plain"]

Unit = Callable[..., nn.Module]


def plain(channels: int, width: int, kernel_size: int, **settings: Any) -> nn.Sequential:
    """Convolution and rectifier."""
    return nn.Sequential(conv=nn.Conv2d(channels, width, kernel_size, **settings), relu=nn.ReLU())


def normalised(channels: int, width: int, kernel_size: int, **settings: Any) -> nn.Sequential:
    """Convolution, batch norm and rectifier."""
    return nn.Sequential(
        conv=nn.Conv2d(channels, width, kernel_size, bias=False, **settings),
        bn=nn.BatchNorm2d(width, eps=1e-3),
        relu=nn.ReLU(),
    )
