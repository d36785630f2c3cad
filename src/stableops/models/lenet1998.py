"""LeNet-5 as published: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to
document recognition", Proceedings of the IEEE 86 (1998), section II.B."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import stableops as F
from stableops import nn
from stableops.models._begin import Rng, begin

if TYPE_CHECKING:
    from stableops.nn._module import Array, Window

__all__ = ["RBF", "ScaledTanh", "Subsampling", "lenet5_1998"]

# Table I: which of the six maps of S2 each of the sixteen filters of C3 sees.
C3 = [
    *[{i % 6, (i + 1) % 6, (i + 2) % 6} for i in range(6)],
    *[{i % 6, (i + 1) % 6, (i + 2) % 6, (i + 3) % 6} for i in range(6)],
    *[{i % 6, (i + 1) % 6, (i + 3) % 6, (i + 4) % 6} for i in range(3)],
    {0, 1, 2, 3, 4, 5},
]

# What F6 should say of each digit: 7x12 pixels, +1 for ink and -1 for paper. Drawn for this
# package; the paper prints the characters of its own set.
DIGITS = """
.###... ...#... .####.. .####.. ....##. ####### ..###.. ####### .#####. .#####.
#...#.. ..##... #....#. #....#. ...#.#. #...... .#..... ......# #.....# #.....#
#...#.. .#.#... .....#. .....#. ..#..#. #...... #...... .....#. #.....# #.....#
#...#.. ...#... .....#. .....#. .#...#. #...... #...... .....#. #.....# #.....#
#...#.. ...#... ....#.. ..###.. #....#. #####.. #.###.. ....#.. .#####. #.....#
#...#.. ...#... ....#.. .....#. #....#. .....#. ##...#. ....#.. #.....# .######
#...#.. ...#... ...#... .....#. ####### .....#. #.....# ...#... #.....# ......#
#...#.. ...#... ..#.... .....#. .....#. .....#. #.....# ...#... #.....# ......#
#...#.. ...#... .#..... #....#. .....#. #....#. #.....# ..#.... #.....# .....#.
.###... .#####. ####### .####.. .....#. .####.. .#####. ..#.... .#####. .####..
....... ....... ....... ....... ....... ....... ....... ....... ....... .......
....... ....... ....... ....... ....... ....... ....... ....... ....... .......
"""


class Subsampling(nn.Module):
    """Sum of each 2x2 window, times a coefficient, plus a bias; a map learns one of each."""

    parameter_names = ("weight", "bias")

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = np.zeros(channels, np.float32)
        self.bias = np.zeros(channels, np.float32)

    def forward(self, x: Array) -> Array:
        sums = 4 * F.avg_pool2d(x, 2)
        self.keep((sums, x.shape))
        y: Array = F.conv2d(sums, self._filters(), self.bias, groups=len(self.weight))
        return y

    def backward(self, grad_output: Array) -> Any:
        sums, shape = self.kept()
        grad, weight, bias = F.conv2d_backward(
            grad_output, sums, self._filters(), groups=len(self.weight)
        )
        self.store_gradients(weight.reshape(-1), bias)
        return F.avg_pool2d_backward(4 * grad, shape, 2)

    def _filters(self) -> Array:
        return self.weight.reshape(-1, 1, 1, 1)

    def initialize_parameters(self, rng: np.random.Generator) -> None:  # noqa: ARG002
        self.weight[...] = 0.25
        self.bias[...] = 0

    def window(self) -> Window:
        return (2, 2), (2, 2)

    def cost(self, output_shape: tuple[int, ...]) -> tuple[int, int]:
        places = int(np.prod(output_shape[1:]))
        return places * 5, places


class ScaledTanh(nn.Module):
    """1.7159 tanh(2 x / 3), which is 1 at 1 (appendix A); tanh(x) = 2 sigmoid(2 x) - 1."""

    def forward(self, x: Array) -> Array:
        s = F.sigmoid(x * x.dtype.type(4 / 3))
        self.keep(s)
        y: Array = (s + s - 1) * x.dtype.type(1.7159)
        return y

    def backward(self, grad_output: Array) -> Any:
        slope = grad_output.dtype.type(2 * 1.7159 * 4 / 3)
        return F.sigmoid_backward(grad_output * slope, self.kept())


class RBF(nn.Module):
    """Minus the squared distance of F6 from the picture of each digit, which is not learned.

    The paper's output is the distance itself; with the sign, the largest is the answer, and the
    softmax of these is the paper's competition between classes (equation 9).
    """

    buffer_names = ("centers",)

    def __init__(self) -> None:
        super().__init__()
        rows = [line.split() for line in DIGITS.split("\n") if line]
        ink = [[pixel == "#" for row in rows for pixel in row[i]] for i in range(10)]
        self.centers = np.where(ink, np.float32(1), np.float32(-1))

    def forward(self, x: Array) -> Array:
        self.keep(x)
        norm = F.linear(x * x, np.ones((1, x.shape[1]), x.dtype))
        y: Array = 2 * F.linear(x, self.centers) - norm - x.dtype.type(self.centers.shape[1])
        return y

    def backward(self, grad_output: Array) -> Any:
        # d/dx_j of -sum_j (x_j - c_ij)^2, summed over the outputs i.
        total = F.linear(grad_output, np.ones((1, len(self.centers)), grad_output.dtype))
        return 2 * (F.linear(grad_output, self.centers.T) - total * self.kept())

    def window(self) -> None:
        return None

    def cost(self, output_shape: tuple[int, ...]) -> tuple[int, int]:  # noqa: ARG002
        return self.centers.size, self.centers.size


def lenet5_1998(*, rng: Rng = None) -> nn.Sequential:
    """LeNet-5 of 1998: 60,000 parameters and 340,908 connections for 32x32 pixels.

    Each filter of C3 sees only some maps (table I), which breaks the symmetry and saves a third of
    the connections.

    Parameters
    ----------
    rng : numpy.random.Generator, optional
        Source of the initial weights, which are 0 without it.

    Returns
    -------
    Sequential
        Takes (N, 1, 32, 32) with paper at -0.1 and ink at 1.175; its largest output is the answer.

    Examples
    --------
    >>> from stableops import models, nn
    >>> summary = nn.summary(models.lenet5_1998(), (1, 32, 32))
    >>> summary.parameters, summary.connections
    (60000, 340908)
    """
    table = [[channel in seen for channel in range(6)] for seen in C3]
    net = nn.Sequential(
        c1=nn.Conv2d(1, 6, 5),
        squash1=ScaledTanh(),
        s2=Subsampling(6),
        squash2=ScaledTanh(),
        c3=nn.Conv2d(6, 16, 5, table=table),
        squash3=ScaledTanh(),
        s4=Subsampling(16),
        squash4=ScaledTanh(),
        c5=nn.Conv2d(16, 120, 5),
        squash5=ScaledTanh(),
        flatten=nn.Flatten(),
        f6=nn.Linear(120, 84),
        squash6=ScaledTanh(),
        output=RBF(),
    )
    return begin(net, rng)
