"""Hypothesis strategies that all families share: values, dtypes, shapes and layouts that hurt."""

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

FLOAT_DTYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]

# Around the widths of vectors and blocks, where tails begin and end.
EDGE_SIZES = [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 129]


def extreme_values(dtype):
    """Values of dtype at which formulas break."""
    info = ml_dtypes.finfo(dtype)
    tiny = [float(info.smallest_subnormal), float(info.smallest_normal), float(info.eps)]
    large = [float(info.max), float(info.max) / 2, 4000.0, 1000.0, 104.0, 88.7, 745.1, 709.8, 17.5]
    values = [0.0, 0.5, 1.0, 2.0, *tiny, *large]
    return [v for value in values for v in (value, -value)]


def finite(dtype, bound=None):
    """Finite values of dtype, extreme ones often."""
    limit = float(ml_dtypes.finfo(dtype).max) if bound is None else bound
    edge = [v for v in extreme_values(dtype) if abs(v) <= limit]
    return st.one_of(
        st.sampled_from(edge),
        st.floats(-20, 20),
        st.floats(-limit, limit, allow_nan=False),
    )


def with_specials(dtype):
    """Values of dtype, infinities and NaN included."""
    return st.one_of(finite(dtype), st.sampled_from([np.inf, -np.inf, np.nan, 0.0, -0.0]))


@st.composite
def arrays(draw, dtype, shape=None, elements=None, min_dims=1, max_dims=4, max_side=40):
    """An array of dtype; float16 and bfloat16 by rounding (overflow to infinity allowed)."""
    if shape is None:
        shape = draw(hnp.array_shapes(min_dims=min_dims, max_dims=max_dims, max_side=max_side))
    values = draw(
        hnp.arrays(np.float64, shape, elements=elements if elements is not None else finite(dtype))
    )
    with np.errstate(over="ignore", under="ignore"):
        return values.astype(dtype)


LAYOUTS = ["C", "F", "reversed", "sliced", "transposed", "broadcast", "offset"]


def laid_out(x, layout):
    """An array equal to x whose strides are of the named layout (broadcast: of x[:1], repeated)."""
    x = np.asarray(x)
    if layout == "F":
        return np.asfortranarray(x)
    if layout == "reversed":
        return np.ascontiguousarray(x[(slice(None, None, -1),) * x.ndim])[
            (slice(None, None, -1),) * x.ndim
        ]
    if layout == "sliced":
        wide = np.zeros((*x.shape[:-1], 3 * x.shape[-1] + 1), x.dtype) if x.ndim else x
        if x.ndim:
            wide[..., 1::3] = x
            return wide[..., 1::3]
        return wide
    if layout == "transposed":
        axes = tuple(range(x.ndim))[::-1]
        order = axes[1:] + axes[:1] if x.ndim else axes
        return np.ascontiguousarray(x.transpose(order)).transpose(np.argsort(order))
    if layout == "broadcast":
        return np.broadcast_to(x[:1], x.shape) if x.ndim and x.shape[0] else x
    if layout == "offset":
        flat = np.zeros(x.size + 1, x.dtype)
        flat[1:] = x.ravel()
        return flat[1:].reshape(x.shape)
    return np.ascontiguousarray(x)
