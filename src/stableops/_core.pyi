from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

version: str
compiler: str

def active_isa() -> str: ...
def available_isas() -> tuple[str, ...]: ...
def set_active_isa(level: str, /) -> None: ...
def get_num_threads() -> int: ...
def set_num_threads(n: int, /) -> None: ...
def empty_cache() -> None: ...
def cache_bytes_in_use() -> int: ...
def cache_limit() -> int: ...
def relu(x: ArrayLike, out: NDArray[Any] | None, /) -> Any: ...
def relu_backward(
    grad_output: ArrayLike, output: ArrayLike, out: NDArray[Any] | None, /
) -> Any: ...
def conv2d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None,
    stride: object,
    padding: object,
    dilation: object,
    groups: int,
    out: NDArray[Any] | None,
    /,
) -> Any: ...
def conv2d_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    weight: ArrayLike,
    stride: object,
    padding: object,
    dilation: object,
    groups: int,
    output_mask: object,
    /,
) -> tuple[Any, Any, Any]: ...
def linear(input: ArrayLike, weight: ArrayLike, bias: ArrayLike | None, /) -> Any: ...
def linear_backward(
    grad_output: ArrayLike, input: ArrayLike, weight: ArrayLike, output_mask: object, /
) -> tuple[Any, Any, Any]: ...
def nms(
    boxes: ArrayLike,
    scores: ArrayLike,
    iou_threshold: float,
    max_output: int | None,
    score_threshold: float | None,
    /,
) -> NDArray[np.int64]: ...
def batched_nms(
    boxes: ArrayLike,
    scores: ArrayLike,
    idxs: ArrayLike,
    iou_threshold: float,
    max_output: int | None,
    score_threshold: float | None,
    /,
) -> NDArray[np.int64]: ...
