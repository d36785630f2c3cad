"""What every layer and every network is."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import contextmanager
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterator

    Self = TypeVar("Self", bound="Module")

__all__ = [
    "Array",
    "LayerError",
    "Module",
    "Window",
    "channels_last",
    "fitting_state",
    "in_evaluation",
]

Array = npt.NDArray[Any]

Window = tuple[tuple[float, float], tuple[float, float]]
"""How much of the input an output sees, and how far neighbouring outputs are apart: (rows, columns)
of each."""


def channels_last(shape: tuple[int, ...], dtype: Any) -> Array:
    """An empty batch of images whose channels are neighbours in memory."""
    batch, channels, height, width = shape
    return np.empty((batch, height, width, channels), dtype).transpose(0, 3, 1, 2)


class LayerError(ValueError):
    """An input that a layer inside a network cannot take; the text says which layer.

    Parameters
    ----------
    layer : str
        Name of the layer, with dots.
    problem : str
        What the layer says.
    """

    def __init__(self, layer: str, problem: str) -> None:
        super().__init__(f"layer {layer}: {problem}")
        self.layer, self.problem = layer, problem


class Module:
    """A layer, or a network of layers, with its forward and its backward pass written out.

    There is no tape: in training mode `forward` keeps what `backward` needs, `backward` uses it up,
    stores the gradients of the parameters and returns the gradient of the input. In evaluation mode
    nothing is kept. One module cannot stand at two places of a network. Parameters are changed in
    place, so that whoever holds one, such as an optimiser, sees the change.

    A layer lists its arrays in `parameter_names` and `buffer_names`; modules found among its
    attributes are its children, named as the attributes are.

    Attributes
    ----------
    training : bool
        Whether the module is in training mode; see `train` and `eval`.
    needs_input_gradient : bool
        False lets `backward` return None and save the work, for the first layer of a network.

    Examples
    --------
    >>> import numpy as np
    >>> from stableops import nn
    >>> class Square(nn.Module):
    ...     def forward(self, x):
    ...         self.keep(x)
    ...         return x * x
    ...
    ...     def backward(self, grad_output):
    ...         return grad_output * 2 * self.kept()
    >>> net = nn.Sequential(Square(), nn.Linear(2, 1)).initialize(np.random.default_rng(0))
    >>> net(np.ones((1, 2), np.float32)).shape
    (1, 1)
    >>> sorted(net.parameters())
    ['1.bias', '1.weight']
    >>> net.backward(np.ones((1, 1), np.float32)).shape
    (1, 2)
    """

    parameter_names: ClassVar[tuple[str, ...]] = ()
    buffer_names: ClassVar[tuple[str, ...]] = ()
    passes_out: ClassVar[bool] = False
    """Whether `forward` hands `out` and what follows it on to its last child."""
    fresh_output: bool = False
    """Whether the output is a new array that the module itself does not need afterwards."""

    def __init__(self) -> None:
        self.training = True
        self.needs_input_gradient = True
        self.is_compiled = False
        self._kept: Any = None
        self._packed: Any = None  # the weight in the order in which a compiled network reads it
        self._gradients: dict[str, Array] = {}

    def __call__(self, x: Array) -> Array:
        """Call `forward`."""
        return self.forward(x)

    def forward(self, x: Array) -> Array:
        """Compute the output.

        Parameters
        ----------
        x : ndarray
            A batch; the first axis counts the samples.

        Returns
        -------
        ndarray
        """
        raise NotImplementedError

    def backward(self, grad_output: Array) -> Any:
        """Compute the gradients of the last `forward`; those of the parameters are stored.

        Parameters
        ----------
        grad_output : ndarray
            Gradient with respect to the output.

        Returns
        -------
        ndarray
            Gradient with respect to the input; None where `needs_input_gradient` is False.

        Raises
        ------
        RuntimeError
            If no `forward` in training mode came before.
        """
        raise NotImplementedError

    # For layers

    def keep(self, value: Any) -> None:
        """Store what `backward` needs, in training mode."""
        if self.training:
            self._kept = value

    def kept(self) -> Any:
        """Take back what `forward` stored."""
        value, self._kept = self._kept, None
        if value is None:
            msg = f"{type(self).__name__}: backward needs a forward in training mode before it"
            raise RuntimeError(msg)
        return value

    def store_gradients(self, *gradients: Array) -> None:
        """Store the gradients of the parameters, in the order of `parameter_names`."""
        for name, gradient in zip(self.parameter_names, gradients, strict=True):
            if getattr(self, name) is not None:
                self._gradients[name] = gradient

    def window(self) -> Window | None:
        """Tell how much of its input one output sees, and the stride; None for all of it."""
        return (1, 1), (1, 1)

    def cost(self, output_shape: tuple[int, ...]) -> tuple[int, int]:  # noqa: ARG002
        """Count the connections and the multiply-adds of one sample of the given output shape."""
        return 0, 0

    def learnable(self) -> int:
        """Count the numbers that training changes, of this module without its children."""
        return sum(getattr(self, name).size for name in self._own(self.parameter_names))

    def initialize_parameters(self, rng: np.random.Generator) -> None:
        """Draw the initial values of this module's own parameters."""

    def prepare(self) -> None:
        """Do beforehand what predictions of a compiled network need once."""

    def parameters_changed(self) -> None:
        """Adapt to new values of this module's own parameters."""
        self._packed = None

    # The tree

    def children(self) -> dict[str, Module]:
        """Modules among the attributes, in the order in which they were set."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Module)}

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        """Walk over this module (named "") and everything in it, names with dots.

        Raises
        ------
        ValueError
            If a module stands at two places.
        """
        places: dict[int, str] = {}

        def walk(place: str, module: Module) -> Iterator[tuple[str, Module]]:
            if id(module) in places:
                msg = (
                    f"one {type(module).__name__} stands at two places, {places[id(module)]!r} and "
                    f"{place!r}: make a module for each"
                )
                raise ValueError(msg)
            places[id(module)] = place
            yield place, module
            for name, child in module.children().items():
                yield from walk(_join(place, name), child)

        return walk("", self)

    def train(self: Self, mode: bool = True) -> Self:
        """Switch to training mode (or, with False, to evaluation mode).

        Returns
        -------
        Module
            Itself.
        """
        for _, module in self.named_modules():
            module.training = mode
            module._kept = module._packed = None
        return self

    def eval(self: Self) -> Self:
        """Switch to evaluation mode: batch norm uses its running statistics, dropout is off.

        Returns
        -------
        Module
            Itself.
        """
        return self.train(False)

    def initialize(self: Self, rng: np.random.Generator) -> Self:
        """Draw initial parameters, layer after layer.

        Weights are uniform with variance 2 / fan-in (He et al. 2015), biases 0, factors of
        normalisations 1. Dropout layers draw their masks from the same generator later.

        Parameters
        ----------
        rng : numpy.random.Generator
            The same state gives the same bits on every machine.

        Returns
        -------
        Module
            Itself.

        Raises
        ------
        TypeError
            If `rng` is no generator.
        """
        if not isinstance(rng, np.random.Generator):
            msg = f"rng must be a numpy.random.Generator, not {type(rng).__name__}"
            raise TypeError(msg)
        for _, module in self.named_modules():
            module.initialize_parameters(rng)
            module.parameters_changed()
        return self

    def astype(self: Self, dtype: npt.DTypeLike) -> Self:
        """Convert all parameters and floating-point buffers.

        Returns
        -------
        Module
            Itself.

        Raises
        ------
        ValueError
            If `dtype` is that of integers, complex numbers or anything but real numbers.
        """
        if np.dtype(dtype).kind in "?biucOSUmM":
            msg = f"dtype must be a floating-point one, not {np.dtype(dtype)}"
            raise ValueError(msg)
        for _, module in self.named_modules():
            for name in module._own(module.parameter_names + module.buffer_names):
                array = getattr(module, name)
                if array.dtype.kind not in "iu":
                    setattr(module, name, array.astype(dtype))
            module._gradients.clear()
            module.parameters_changed()
        return self

    def compile(self) -> Module:
        """Make a copy for prediction, with batch norm folded into the convolutions before it.

        The copy has arrays of its own, so that neither notices what becomes of the other, and is
        in evaluation mode. See :class:`Sequential`, which does the folding. That rounds each weight
        once more: the networks of `models` give their outputs again to 1e-5 of the largest in
        float32, to 1e-12 in float64.

        Its convolutions put their weights in order once; after that they notice new weights by
        `load_state_dict`, `initialize` or training, but not values that are written into the
        arrays. Layers inside it may write over their inputs; the network itself does not.

        Returns
        -------
        Module
        """
        clone = self.compiled()
        for _, module in clone.named_modules():
            module.prepare()
        return clone

    def compiled(self) -> Module:
        """Make the copy, not yet prepared: what `compile` of a kind of module is."""
        clone = copy.copy(self)
        clone._gradients = {}
        for name in self._own(self.parameter_names + self.buffer_names):
            setattr(clone, name, getattr(self, name).copy())
        for name, child in self.children().items():
            setattr(clone, name, child.compiled())
        clone.training, clone.is_compiled, clone._kept, clone._packed = False, True, None, None
        return clone

    # Parameters

    def parameters(self) -> dict[str, Array]:
        """Name all arrays that training changes; changes in place are seen by the module."""
        return self._arrays(lambda module: module.parameter_names)

    def gradients(self) -> dict[str, Array]:
        """Name the gradients that the last `backward` stored, with the keys of `parameters`.

        Raises
        ------
        RuntimeError
            If a layer with parameters has had no `backward`.
        """
        gradients = {}
        for prefix, module in self.named_modules():
            for name in module._own(module.parameter_names):
                key = _join(prefix, name)
                if name not in module._gradients:
                    msg = f"no gradient of {key}: call backward first"
                    raise RuntimeError(msg)
                gradients[key] = module._gradients[name]
        return gradients

    def state_dict(self) -> dict[str, Array]:
        """Name all parameters and buffers, with the names that torchvision gives them."""
        return self._arrays(lambda module: module.parameter_names + module.buffer_names)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy parameters and buffers from a mapping of names to arrays.

        Parameters
        ----------
        state : mapping of str to array_like
            With the keys of `state_dict`. The counters ``num_batches_tracked`` may be missing, as
            in old files.

        Raises
        ------
        ValueError
            If keys are missing, unexpected, of another shape, no real numbers or beyond float32:
            all of them are named, and nothing has been changed.
        TypeError
            If `state` is no mapping.
        """
        own = self.state_dict()
        for name, array in fitting_state(own, state, type(self).__name__).items():
            own[name][...] = array
        for _, module in self.named_modules():
            module.parameters_changed()

    def _own(self, names: tuple[str, ...]) -> list[str]:
        return [name for name in names if getattr(self, name) is not None]

    def _arrays(self, names_of: Any) -> dict[str, Array]:
        return {
            _join(prefix, name): getattr(module, name)
            for prefix, module in self.named_modules()
            for name in module._own(names_of(module))
        }


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def check_number(**numbers: Any) -> None:
    """Refuse an argument that is no real number by its name."""
    for name, value in numbers.items():
        if not isinstance(value, Real):
            msg = f"{name}={value!r} is not allowed; a number is"
            raise TypeError(msg)


def _overflows(array: Array, dtype: np.dtype[Any]) -> bool:
    if array.dtype.kind != "f" or array.dtype.itemsize <= dtype.itemsize:
        return False
    with np.errstate(over="ignore"):
        return bool((np.isinf(array.astype(dtype)) & np.isfinite(array)).any())


def fitting_state(
    own: Mapping[str, Array], state: Mapping[str, Any], owner: str
) -> dict[str, Array]:
    """Convert a state to the dtypes of what it is to be written over.

    Parameters
    ----------
    own : mapping of str to ndarray
        What is there.
    state : mapping of str to array_like
        What is to be there.
    owner : str
        Whose state it is, for the error.

    Returns
    -------
    dict of str to ndarray

    Raises
    ------
    ValueError
        If keys are missing, unexpected, of another shape or kind, or overflow; all of them are
        named.
    TypeError
        If the state is no mapping.
    """
    if not isinstance(state, Mapping):
        msg = f"the state of {owner} is {state!r:.40}; a mapping of names to arrays is needed"
        raise TypeError(msg)
    arrays = {}
    for name in own:
        if name in state:
            try:
                arrays[name] = np.asarray(state[name])
            # Lists of different lengths; tensors of other libraries that record gradients.
            except (ValueError, RuntimeError) as error:
                msg = f"the weights do not fit {owner}: {name} is no array: {error}"
                raise ValueError(msg) from error
    counters = {name for name in own if name.rpartition(".")[2] == "num_batches_tracked"}
    groups = {
        "missing": [name for name in own if name not in state and name not in counters],
        "unexpected": [name for name in state if name not in own],
        "of another shape": [
            f"{name} ({array.shape} instead of {own[name].shape})"
            for name, array in arrays.items()
            if array.shape != own[name].shape
        ],
        "of another kind": [
            f"{name} ({array.dtype} instead of {own[name].dtype})"
            for name, array in arrays.items()
            if not np.can_cast(array.dtype, own[name].dtype, "same_kind")
        ],
        "beyond their dtype": [
            f"{name} ({own[name].dtype})"
            for name, array in arrays.items()
            if _overflows(array, own[name].dtype)
        ],
    }
    problems = [f"{kind}: {', '.join(map(str, names))}" for kind, names in groups.items() if names]
    if problems:
        msg = f"the weights do not fit {owner}: " + "; ".join(problems)
        raise ValueError(msg)
    return {name: array.astype(own[name].dtype, copy=False) for name, array in arrays.items()}


@contextmanager
def in_evaluation(net: Module) -> Iterator[None]:
    """Put a network in evaluation mode for a while; what `backward` needs stays."""
    trained = [module for _, module in net.named_modules() if module.training]
    for module in trained:
        module.training = False
    try:
        yield
    finally:
        for module in trained:
            module.training, module._packed = True, None
