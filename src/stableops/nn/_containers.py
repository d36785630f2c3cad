"""Modules made of modules: one after another, around a shortcut, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import stableops as F
from stableops.nn._convolution import Conv2d
from stableops.nn._module import Array, LayerError, Module, channels_last

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["AuxiliaryHead", "Concat", "Residual", "Sequential"]


class Container(Module):
    """A module whose children are given as arguments.

    Parameters
    ----------
    *layers : Module
        Named "0", "1", ...
    **named : Module
        Under their own names.
    """

    order: tuple[str, ...] = ()  # compile sets it to the names of the children, to find them sooner

    def __init__(self, *layers: Module, **named: Module) -> None:
        super().__init__()
        self.add(**{str(i): layer for i, layer in enumerate(layers)}, **named)

    def add(self, **named: Module) -> None:
        """Append modules under their names, which have no dots."""
        for name, module in named.items():
            if not isinstance(module, Module):
                msg = f"{name} is no Module but {type(module).__name__}"
                raise TypeError(msg)
            if not name or "." in name:
                msg = f"a module cannot be named {name!r}: dots separate names of modules"
                raise ValueError(msg)
            if hasattr(self, name):
                msg = f"a module cannot be named {name}: {type(self).__name__} has that already"
                raise ValueError(msg)
            setattr(self, name, module)
        self.order = ()

    def __getitem__(self, place: int) -> Module:
        return list(self.children().values())[place]

    def __iter__(self) -> Iterator[Module]:
        return iter(self.children().values())

    def __len__(self) -> int:
        return len(self.children())

    def run(self, name: str, x: Array, *out: Any) -> Array:
        """Call a child, and name it in the error if it cannot take `x`."""
        child: Module = getattr(self, name)
        try:
            return child.forward(x, *out)
        except LayerError as error:
            raise LayerError(f"{name}.{error.layer}", error.problem) from None
        except ValueError as error:
            raise LayerError(f"{name} ({type(child).__name__})", str(error)) from error


def output_layer(module: Module) -> Conv2d | None:
    """Find the convolution that gives a module's output and can be told where to write it."""
    while isinstance(module, Container) and vars(type(module)).get("passes_out", False):
        names = module.order or tuple(module.children())
        if not names:
            return None
        module = getattr(module, names[-1])
    return module if type(module) is Conv2d else None


class Sequential(Container):
    """Modules one after another.

    `compile` folds: a batch norm goes into the weights and the bias of the convolution before it, a
    rectifier becomes the last step of the convolution or dense layer before it, dropout disappears.

    Parameters
    ----------
    *layers : Module
        In order, named "0", "1", ...
    **named : Module
        In order, under their own names.

    Examples
    --------
    >>> import numpy as np
    >>> from stableops import nn
    >>> net = nn.Sequential(conv=nn.Conv2d(3, 8, 3), relu=nn.ReLU(), pool=nn.MaxPool2d(2))
    >>> net.initialize(np.random.default_rng(0)).eval()(np.ones((1, 3, 8, 8), np.float32)).shape
    (1, 8, 3, 3)
    >>> list(net.state_dict())
    ['conv.weight', 'conv.bias']
    """

    passes_out = True

    def forward(self, x: Array, *out: Any) -> Array:
        names = self.order or tuple(self.children())
        for name in names[:-1]:
            x = self.run(name, x)
        return self.run(names[-1], x, *out) if names else x

    def backward(self, grad_output: Array) -> Any:
        for child in reversed(self.children().values()):
            grad_output = child.backward(grad_output)
        return grad_output

    def compiled(self) -> Module:
        from stableops.nn._compile import compile_sequence

        clone: Any = super().compiled()
        return compile_sequence(self, clone)


class Residual(Sequential):
    """Modules one after another, whose input is added to their output: relu(f(x) + x).

    Parameters
    ----------
    downsample : Module, optional
        What brings the input to the shape of the output; None for the input itself.
    activation : bool
        Whether the sum is rectified.
    **named : Module
        The body, in order.

    Examples
    --------
    >>> import numpy as np
    >>> from stableops import nn
    >>> block = nn.Residual(conv=nn.Conv2d(1, 1, 3, padding=1))  # all weights are 0
    >>> block(np.array([[[[-1.0, 2.0]]]]))
    array([[[[0., 2.]]]])
    """

    passes_out = False
    body: tuple[str, ...] = ()
    downsample: Module | None = None
    activation: bool = True
    # compile sets them: the last layer can add to the shortcut, and nobody else needs that.
    adds_in_place = owns_shortcut = False

    def __init__(
        self, *, downsample: Module | None = None, activation: bool = True, **named: Module
    ) -> None:
        super().__init__(**named)
        self.body, self.activation, self.downsample = tuple(named), activation, downsample

    def forward(self, x: Array) -> Array:
        y = x
        for name in self.body[:-1]:
            y = self.run(name, y)
        shortcut = x if self.downsample is None else self.run("downsample", x)
        if self.adds_in_place and not self.training and self._fits(y, shortcut):
            place = shortcut if self.owns_shortcut else shortcut.copy(order="K")
            return self.run(self.body[-1], y, place, True, self.activation)
        for name in self.body[-1:]:
            y = self.run(name, y)
        if y.shape != shortcut.shape:
            msg = f"cannot add the input of shape {shortcut.shape} to the output of shape {y.shape}"
            raise ValueError(msg)
        y = np.add(y, shortcut, out=y if self._is_fresh(-1) else None)
        if self.activation:
            y = F.relu(y, out=y)
        self.keep(y)
        return y

    def backward(self, grad_output: Array) -> Any:
        y = self.kept()
        if self.activation:
            grad_output = F.relu_backward(grad_output, y)
        grad = grad_output
        for name in reversed(self.body):
            grad = getattr(self, name).backward(grad)
        if self.downsample is not None:
            grad_output = self.downsample.backward(grad_output)
        return np.add(grad, grad_output, out=grad if self._is_fresh(0) else None)

    def compiled(self) -> Module:
        from stableops.nn._compile import compile_residual

        clone: Any = super().compiled()
        return compile_residual(clone)

    def _fits(self, y: Array, shortcut: Array) -> bool:
        weight = getattr(self, self.body[-1]).weight
        shape = (*y.shape[:-3], weight.shape[0], *y.shape[-2:])
        return bool(shortcut.shape == shape and shortcut.dtype == y.dtype == weight.dtype)

    def _is_fresh(self, place: int) -> bool:
        return bool(self.body) and getattr(self, self.body[place]).fresh_output


class Concat(Container):
    """Branches side by side: each sees the input, their channels are put one after another.

    Parameters
    ----------
    *layers, **named : Module
        The branches, in the order of their channels.

    Examples
    --------
    >>> import numpy as np
    >>> from stableops import nn
    >>> both = nn.Concat(nn.MaxPool2d(2), nn.AvgPool2d(2))
    >>> both(np.array([[[[1.0, 2.0], [3.0, 4.0]]]]))
    array([[[[4. ]],
    <BLANKLINE>
            [[2.5]]]])
    """

    places_branches = False  # compile sets it where branches can be told where to write

    def forward(self, x: Array) -> Array:
        if self.places_branches and not self.training and x.ndim == 4:
            layers = (output_layer(getattr(self, name)) for name in self.order)
            weights = [layer.weight for layer in layers if layer is not None]
            if all(weight.dtype == x.dtype for weight in weights):
                return self._side_by_side(x, [len(weight) for weight in weights])
        outputs = [self.run(name, x) for name in self.children()]
        sizes = {output.shape[2:] for output in outputs}
        if len(sizes) > 1:
            msg = f"the branches give images of different sizes: {sorted(sizes)}"
            raise ValueError(msg)
        self.keep([output.shape[1] for output in outputs])
        return np.concatenate(outputs, axis=1)

    def _side_by_side(self, x: Array, widths: list[int]) -> Array:
        y = channels_last((len(x), sum(widths), *x.shape[2:]), x.dtype)
        end = 0
        for name, width in zip(self.order, widths, strict=True):
            end += width
            self.run(name, x, y[:, end - width : end])
        return y

    def compiled(self) -> Module:
        from stableops.nn._compile import keeps_size

        clone: Any = super().compiled()
        clone.order = tuple(clone.children())
        clone.places_branches = all(output_layer(child) and keeps_size(child) for child in clone)
        compiled: Module = clone
        return compiled

    def backward(self, grad_output: Array) -> Any:
        ends = np.cumsum(self.kept())[:-1]
        grads = np.split(grad_output, ends, axis=1)
        total: Array | None = None
        for child, grad in zip(self, grads, strict=True):
            grad = child.backward(grad)
            # The first may be a view of `grad_output`, which belongs to the caller.
            total = grad if total is None else np.add(total, grad)
        return total


class AuxiliaryHead(Sequential):
    """A second classifier half way, which the input passes unchanged (Szegedy et al. 2015).

    In training, its logits are in `logits` after `forward`, and `backward` expects the gradient of
    their loss in `grad_logits`. In evaluation mode it does nothing.

    Parameters
    ----------
    **named : Module
        The classifier, in order.

    Examples
    --------
    >>> import numpy as np
    >>> from stableops import nn
    >>> head = nn.AuxiliaryHead(flat=nn.Flatten(), fc=nn.Linear(4, 2))
    >>> x = np.ones((1, 1, 2, 2), np.float32)
    >>> head(x) is x, head.logits.shape
    (True, (1, 2))
    """

    passes_out = False

    logits: Array | None = None
    grad_logits: Array | None = None

    def forward(self, x: Array) -> Array:
        if self.training:
            self.logits = super().forward(x)
        return x

    def backward(self, grad_output: Array) -> Any:
        if self.grad_logits is None:
            msg = "AuxiliaryHead: set grad_logits to the gradient of its loss before backward"
            raise RuntimeError(msg)
        grad, self.grad_logits = super().backward(self.grad_logits), None
        return grad_output + grad
