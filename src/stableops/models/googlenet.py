"""GoogLeNet: Szegedy et al., "Going deeper with convolutions", 2015; as published (`inception_v1`)
and as in torchvision (`googlenet`: batch norm, and 3x3 where the paper has 5x5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stableops import nn
from stableops.models._begin import Rng, begin
from stableops.models._units import Unit, normalised, plain

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["googlenet", "inception", "inception_v1"]

# Channels of each block: 1x1; 1x1 before 3x3; 3x3; 1x1 before 5x5; 5x5; 1x1 after the pooling.
WIDTHS: dict[str, Any] = {
    "inception3a": (64, 96, 128, 16, 32, 32),
    "inception3b": (128, 128, 192, 32, 96, 64),
    "maxpool3": 3,
    "inception4a": (192, 96, 208, 16, 48, 64),
    "aux1": 512,
    "inception4b": (160, 112, 224, 24, 64, 64),
    "inception4c": (128, 128, 256, 24, 64, 64),
    "inception4d": (112, 144, 288, 32, 64, 64),
    "aux2": 528,
    "inception4e": (256, 160, 320, 32, 128, 128),
    "maxpool4": 3,
    "inception5a": (256, 160, 320, 32, 128, 128),
    "inception5b": (384, 192, 384, 48, 128, 128),
}


def inception(unit: Unit, channels: int, widths: tuple[int, ...], large: int = 5) -> nn.Concat:
    """Four branches side by side: the network chooses its filter size at every place.

    1x1 convolutions before the expensive ones reduce the channels, and with them the work.
    """
    one, reduce3, three, reduce5, five, pooled = widths
    return nn.Concat(
        branch1=unit(channels, one, 1),
        branch2=nn.Sequential(unit(channels, reduce3, 1), unit(reduce3, three, 3, padding=1)),
        branch3=nn.Sequential(
            unit(channels, reduce5, 1), unit(reduce5, five, large, padding=large // 2)
        ),
        branch4=nn.Sequential(nn.MaxPool2d(3, 1, padding=1), unit(channels, pooled, 1)),
    )


def _head(unit: Unit, pool: nn.Module, channels: int, num_classes: int) -> nn.AuxiliaryHead:
    return nn.AuxiliaryHead(
        pool=pool,
        conv=unit(channels, 128, 1),
        flatten=nn.Flatten(),
        fc1=nn.Linear(2048, 1024),
        relu=nn.ReLU(),
        dropout=nn.Dropout(0.7),
        fc2=nn.Linear(1024, num_classes),
    )


def _blocks(
    unit: Unit, large: int, head: Callable[[int], nn.Module] | None
) -> dict[str, nn.Module]:
    blocks: dict[str, nn.Module] = {}
    channels = 192
    for name, widths in WIDTHS.items():
        if isinstance(widths, tuple):
            blocks[name] = inception(unit, channels, widths, large)
            channels = widths[0] + widths[2] + widths[4] + widths[5]
        elif name.startswith("maxpool"):
            blocks[name] = nn.MaxPool2d(widths, 2, ceil_mode=True)
        elif head is not None:
            blocks[name] = head(widths)
    return blocks


def _end(dropout: float, num_classes: int) -> dict[str, nn.Module]:
    return {
        "avgpool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "dropout": nn.Dropout(dropout),
        "fc": nn.Linear(1024, num_classes),
    }


def googlenet(
    num_classes: int = 1000, *, aux_heads: bool = False, rng: Rng = None
) -> nn.Sequential:
    """GoogLeNet as in torchvision, 6,624,904 parameters without the auxiliary heads.

    Parameters
    ----------
    num_classes : int
        Number of outputs.
    aux_heads : bool
        Whether two more classifiers half way help in training; a file with their weights needs it.
    rng : numpy.random.Generator, optional
        Source of the initial weights, which are 0 without it.

    Returns
    -------
    Sequential
        Takes (N, 3, 224, 224). Pretrained weights of torchvision expect pictures in [-1, 1].

    Examples
    --------
    >>> from stableops import models
    >>> sum(array.size for array in models.googlenet().parameters().values())
    6624904
    """

    def head(channels: int) -> nn.AuxiliaryHead:
        return _head(normalised, nn.AdaptiveAvgPool2d(4), channels, num_classes)

    blocks = _blocks(normalised, 3, head if aux_heads else None)
    blocks["maxpool4"] = nn.MaxPool2d(2, 2, ceil_mode=True)  # 3x3 in the paper
    net = nn.Sequential(
        conv1=normalised(3, 64, 7, stride=2, padding=3),
        maxpool1=nn.MaxPool2d(3, 2, ceil_mode=True),
        conv2=normalised(64, 64, 1),
        conv3=normalised(64, 192, 3, padding=1),
        maxpool2=nn.MaxPool2d(3, 2, ceil_mode=True),
        **blocks,
        **_end(0.2, num_classes),
    )
    return begin(net, rng)


def inception_v1(
    num_classes: int = 1000, *, aux_heads: bool = False, rng: Rng = None
) -> nn.Sequential:
    """GoogLeNet as published, 6,998,552 parameters without the auxiliary heads.

    Parameters
    ----------
    num_classes : int
        Number of outputs.
    aux_heads : bool
        Whether two more classifiers half way help in training.
    rng : numpy.random.Generator, optional
        Source of the initial weights, which are 0 without it.

    Returns
    -------
    Sequential
        Takes (N, 3, 224, 224).

    Examples
    --------
    >>> from stableops import models
    >>> sum(array.size for array in models.inception_v1().parameters().values())
    6998552
    """

    def head(channels: int) -> nn.AuxiliaryHead:
        return _head(plain, nn.AvgPool2d(5, 3), channels, num_classes)

    net = nn.Sequential(
        conv1=plain(3, 64, 7, stride=2, padding=3),
        maxpool1=nn.MaxPool2d(3, 2, ceil_mode=True),
        norm1=nn.LocalResponseNorm(5),
        conv2=plain(64, 64, 1),
        conv3=plain(64, 192, 3, padding=1),
        norm2=nn.LocalResponseNorm(5),
        maxpool2=nn.MaxPool2d(3, 2, ceil_mode=True),
        **_blocks(plain, 5, head if aux_heads else None),
        **_end(0.4, num_classes),
    )
    return begin(net, rng)
