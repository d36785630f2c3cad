"""Neural-network operations on NumPy arrays: right to the last digit, fast, the same bits everywhere."""

from stableops._config import (
    active_isa,
    available_isas,
    empty_cache,
    get_num_threads,
    set_num_threads,
    show_config,
)
from stableops._conv2d import conv2d, conv2d_backward
from stableops._core import version as __version__
from stableops._elementwise import relu, relu_backward
from stableops._linear import linear, linear_backward
from stableops._nms import batched_nms, nms

__all__ = [
    "__version__",
    "active_isa",
    "available_isas",
    "batched_nms",
    "conv2d",
    "conv2d_backward",
    "empty_cache",
    "get_num_threads",
    "linear",
    "linear_backward",
    "nms",
    "relu",
    "relu_backward",
    "set_num_threads",
    "show_config",
]
