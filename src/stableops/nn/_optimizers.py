"""Optimisers: elementwise, in place, the same bits everywhere."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from stableops._config import get_num_threads
from stableops.nn._module import fitting_state

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stableops.nn._module import Array, Module

__all__ = ["SGD", "Adam", "Optimizer"]

BLOCK = 1 << 17
"""Elements that are updated together, so that all passes over them find them in the cache."""

BLOCKS_OF_A_THREAD = 4
"""So many are worth a thread."""


class Optimizer:
    """What the optimisers have in common.

    Parameters
    ----------
    net : Module
        Whose parameters are changed in place.
    lr : float
        Learning rate; may be changed between steps.
    weight_decay : float
        Factor of the parameter that is added to its gradient.
    """

    memories: tuple[str, ...] = ()

    def __init__(self, net: Module, lr: float, weight_decay: float) -> None:
        if not (0 <= lr < math.inf and 0 <= weight_decay < math.inf):
            msg = f"lr and weight_decay must be finite and not negative: {lr}, {weight_decay}"
            raise ValueError(msg)
        matrices = [array for array in net.parameters().values() if array.ndim > 1]
        if matrices and not any(array.any() for array in matrices):
            msg = (
                "all weights are zero, so nothing would be learned: call net.initialize(rng) first"
            )
            raise ValueError(msg)
        self.net, self.lr, self.weight_decay = net, lr, weight_decay
        self.steps = 0
        self.memory = {
            name: {memory: np.zeros(array.shape, array.dtype) for memory in self.memories}
            for name, array in net.parameters().items()
        }

    def step(self) -> None:
        """Change every parameter, with the gradients of the last `backward`."""
        gradients = self.net.gradients()
        self.steps += 1
        blocks: list[list[Array]] = []
        for name, parameter in self.net.parameters().items():
            arrays = [parameter, gradients[name], *self.memory[name].values()]
            if all(array.flags.c_contiguous for array in arrays):
                flat = [array.reshape(-1) for array in arrays]
                starts = range(0, parameter.size, BLOCK)
                blocks += [[array[i : i + BLOCK] for array in flat] for i in starts]
            else:
                blocks.append(arrays)
        total = sum(arrays[0].size for arrays in blocks)
        threads = min(get_num_threads(), total // (BLOCKS_OF_A_THREAD * BLOCK))
        if threads < 2:
            self._update_all(blocks)
            return
        # NumPy lets other threads run while it computes.
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(self._update_all, [blocks[i::threads] for i in range(threads)]))

    def _update_all(self, blocks: list[list[Array]]) -> None:
        for arrays in blocks:
            self._update(*arrays)

    def _update(self, parameter: Array, gradient: Array, *memories: Array) -> None:
        raise NotImplementedError

    def _with_decay(self, parameter: Array, gradient: Array) -> Array:
        if self.weight_decay == 0:
            return gradient
        decay: Array = parameter.dtype.type(self.weight_decay) * parameter
        decay += gradient
        return decay

    def state_dict(self) -> dict[str, Array]:
        """Name everything that a later `step` depends on, but the settings."""
        state = {
            f"{memory}.{name}": array
            for name, memories in self.memory.items()
            for memory, array in memories.items()
        }
        return {"steps": np.asarray(self.steps), **state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken.

        Raises
        ------
        ValueError
            If keys are missing, unexpected, of another shape or no real numbers, or the number of
            steps is negative; nothing has been changed.
        """
        own = self.state_dict()
        arrays = fitting_state(own, state, type(self).__name__)
        if arrays["steps"] < 0:
            msg = f"the number of steps must not be negative, it is {arrays['steps']}"
            raise ValueError(msg)
        for name, array in arrays.items():
            own[name][...] = array
        self.steps = int(own["steps"])


class SGD(Optimizer):
    """Stochastic gradient descent with momentum, as `torch.optim.SGD`.

    velocity = momentum * velocity + gradient + weight_decay * parameter, and
    parameter -= lr * velocity.

    Parameters
    ----------
    net : Module
        Whose parameters are changed in place.
    lr : float
        Learning rate; may be changed between steps.
    momentum : float
        What is kept of the last step.
    weight_decay : float
        Factor of the parameter that is added to its gradient.

    Raises
    ------
    ValueError
        If a setting is negative, or the network has not been initialised.

    Examples
    --------
    >>> import numpy as np
    >>> from stableops import nn
    >>> net = nn.Linear(1, 1).initialize(np.random.default_rng(0))
    >>> optimizer = nn.SGD(net, lr=0.1)
    >>> for _ in range(50):
    ...     error = net(np.ones((1, 1), np.float32)) - np.float32(3)
    ...     gradient = net.backward(error)
    ...     optimizer.step()
    >>> abs(error.item()) < 1e-4
    True
    """

    memories = ("velocity",)

    def __init__(
        self, net: Module, lr: float, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        super().__init__(net, lr, weight_decay)
        if not momentum >= 0:
            msg = f"momentum must not be negative: {momentum}"
            raise ValueError(msg)
        self.momentum = momentum

    def _update(self, parameter: Array, gradient: Array, *memories: Array) -> None:
        (velocity,) = memories
        number = parameter.dtype.type
        velocity *= number(self.momentum)
        velocity += self._with_decay(parameter, gradient)
        parameter -= number(self.lr) * velocity


class Adam(Optimizer):
    """Adam, as `torch.optim.Adam` (Kingma and Ba 2015).

    Parameters
    ----------
    net : Module
        Whose parameters are changed in place.
    lr : float
        Learning rate; may be changed between steps.
    betas : pair of floats
        What is kept of the mean of the gradient and of its square.
    eps : float
        Added to the root of the mean square.
    weight_decay : float
        Factor of the parameter that is added to its gradient.

    Raises
    ------
    ValueError
        If a setting is out of range, or the network has not been initialised.

    Examples
    --------
    >>> import numpy as np
    >>> from stableops import nn
    >>> net = nn.Linear(1, 1).initialize(np.random.default_rng(0))
    >>> before = net.weight.copy()
    >>> output = net(np.ones((1, 1), np.float32))
    >>> gradient = net.backward(np.ones((1, 1), np.float32))
    >>> nn.Adam(net, lr=0.5, eps=0).step()
    >>> abs(net.weight.item() - before.item() + 0.5) < 1e-6
    True
    """

    memories = ("mean", "square")

    def __init__(
        self,
        net: Module,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(net, lr, weight_decay)
        if not (0 <= betas[0] < 1 and 0 <= betas[1] < 1 and eps >= 0):
            msg = f"betas must be in [0, 1) and eps not negative: {betas}, {eps}"
            raise ValueError(msg)
        self.betas, self.eps = betas, eps

    def _update(self, parameter: Array, gradient: Array, *memories: Array) -> None:
        mean, square = memories
        number = parameter.dtype.type
        beta1, beta2 = self.betas
        gradient = self._with_decay(parameter, gradient)
        mean *= number(beta1)
        mean += number(1 - beta1) * gradient
        square *= number(beta2)
        square += number(1 - beta2) * gradient * gradient
        root = np.sqrt(square)
        root /= number(math.sqrt(1 - _power(beta2, self.steps)))
        root += number(self.eps)
        np.divide(mean, root, out=root)
        root *= number(self.lr / (1 - _power(beta1, self.steps)))
        parameter -= root


def _power(base: float, exponent: int) -> float:
    """Multiply in a fixed order: `pow` of C libraries differ in the last bit."""
    result = 1.0
    while exponent:
        if exponent & 1:
            result *= base
        base *= base
        exponent >>= 1
    return result
