from collections.abc import Sequence
from typing import Any, SupportsIndex, final

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
def sigmoid(x: ArrayLike, out: NDArray[Any] | None, /) -> Any: ...
def log_sigmoid(x: ArrayLike, out: NDArray[Any] | None, /) -> Any: ...
def softplus(x: ArrayLike, out: NDArray[Any] | None, /) -> Any: ...
def relu_backward(
    grad_output: ArrayLike, output: ArrayLike, out: NDArray[Any] | None, /
) -> Any: ...
def sigmoid_backward(
    grad_output: ArrayLike, output: ArrayLike, out: NDArray[Any] | None, /
) -> Any: ...
def log_sigmoid_backward(
    grad_output: ArrayLike, x: ArrayLike, out: NDArray[Any] | None, /
) -> Any: ...
def softplus_backward(grad_output: ArrayLike, x: ArrayLike, out: NDArray[Any] | None, /) -> Any: ...
def leaky_relu(x: ArrayLike, negative_slope: float, out: NDArray[Any] | None, /) -> Any: ...
def leaky_relu_backward(
    grad_output: ArrayLike, x: ArrayLike, negative_slope: float, out: NDArray[Any] | None, /
) -> Any: ...
def prelu(x: ArrayLike, weight: ArrayLike, out: NDArray[Any] | None, /) -> Any: ...
def prelu_grad_input(grad_output: ArrayLike, x: ArrayLike, weight: ArrayLike, /) -> Any: ...
def prelu_grad_weight(grad_output: ArrayLike, x: ArrayLike, weight: ArrayLike, /) -> Any: ...
def check_probability(p: float, /) -> None: ...
def dropout(input: ArrayLike, mask: ArrayLike, p: float, /) -> Any: ...
def dropout_backward(grad_output: ArrayLike, mask: ArrayLike, p: float, /) -> Any: ...
def batch_norm(
    input: ArrayLike,
    running_mean: NDArray[Any] | None,
    running_var: NDArray[Any] | None,
    weight: ArrayLike | None,
    bias: ArrayLike | None,
    training: bool,
    momentum: float,
    eps: float,
    return_stats: bool,
    rectify: bool,
    /,
) -> Any: ...
def batch_norm_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    weight: ArrayLike | None,
    mean: ArrayLike,
    rstd: ArrayLike,
    training: bool,
    output_mask: object,
    /,
) -> tuple[Any, Any, Any]: ...
def group_norm(
    input: ArrayLike,
    num_groups: int,
    weight: ArrayLike | None,
    bias: ArrayLike | None,
    eps: float,
    return_stats: bool,
    /,
) -> Any: ...
def group_norm_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    num_groups: int,
    weight: ArrayLike | None,
    mean: ArrayLike,
    rstd: ArrayLike,
    output_mask: object,
    /,
) -> tuple[Any, Any, Any]: ...
def layer_norm(
    input: ArrayLike,
    normalized_shape: object,
    weight: ArrayLike | None,
    bias: ArrayLike | None,
    eps: float,
    return_stats: bool,
    /,
) -> Any: ...
def layer_norm_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    normalized_shape: object,
    weight: ArrayLike | None,
    mean: ArrayLike,
    rstd: ArrayLike,
    output_mask: object,
    /,
) -> tuple[Any, Any, Any]: ...
def local_response_norm(
    input: ArrayLike, size: int, alpha: float, beta: float, k: float, /
) -> Any: ...
def local_response_norm_backward(
    grad_output: ArrayLike, input: ArrayLike, size: int, alpha: float, beta: float, k: float, /
) -> Any: ...
def interpolate(
    input: ArrayLike, size: object, scale_factor: object, mode: str, align_corners: bool, /
) -> Any: ...
def interpolate_backward(
    grad_output: ArrayLike,
    input_shape: object,
    mode: str,
    align_corners: bool,
    scale_factor: object,
    /,
) -> Any: ...
def rearrange_into(y: NDArray[Any], x: NDArray[Any], /) -> None: ...
def softmax(
    x: ArrayLike,
    axis: int | tuple[int, ...] | None,
    where: ArrayLike | None,
    out: NDArray[Any] | None,
    /,
) -> Any: ...
def log_softmax(
    x: ArrayLike,
    axis: int | tuple[int, ...] | None,
    where: ArrayLike | None,
    out: NDArray[Any] | None,
    /,
) -> Any: ...
def softmax_backward(
    grad_output: ArrayLike,
    output: ArrayLike,
    axis: int | tuple[int, ...] | None,
    out: NDArray[Any] | None,
    /,
) -> Any: ...
def log_softmax_backward(
    grad_output: ArrayLike,
    output: ArrayLike,
    axis: int | tuple[int, ...] | None,
    out: NDArray[Any] | None,
    /,
) -> Any: ...
def logsumexp(
    x: ArrayLike,
    axis: int | tuple[int, ...] | None,
    keepdims: bool,
    where: ArrayLike | None,
    b: ArrayLike | None,
    return_sign: bool,
    out: NDArray[Any] | None,
    /,
) -> Any: ...
def logsumexp_backward(
    grad_output: ArrayLike,
    x: ArrayLike,
    output: ArrayLike,
    axis: int | tuple[int, ...] | None,
    out: NDArray[Any] | None,
    /,
) -> Any: ...
def softmax_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: int,
    weight: ArrayLike | None,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
    return_grad: bool,
    /,
) -> Any: ...

@final
class PackedWeight:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def groups(self) -> int: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def state(self) -> tuple[Any, ...]: ...

def packed_weight_of(state: tuple[Any, ...], /) -> PackedWeight: ...
def pack_conv2d_weight(weight: ArrayLike, groups: int, /) -> PackedWeight: ...
def pack_linear_weight(weight: ArrayLike, /) -> PackedWeight: ...
def conv2d(
    input: ArrayLike,
    weight: ArrayLike | PackedWeight,
    bias: ArrayLike | None,
    stride: object,
    padding: object,
    dilation: object,
    groups: int,
    out: NDArray[Any] | None,
    add: bool,
    rectify: bool,
    channels_last: bool,
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
def conv_transpose2d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None,
    stride: object,
    padding: object,
    output_padding: object,
    groups: int,
    dilation: object,
    /,
) -> Any: ...
def conv_transpose2d_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    weight: ArrayLike,
    stride: object,
    padding: object,
    output_padding: object,
    groups: int,
    dilation: object,
    output_mask: object,
    /,
) -> tuple[Any, Any, Any]: ...
def linear(
    input: ArrayLike, weight: ArrayLike | PackedWeight, bias: ArrayLike | None, rectify: bool, /
) -> Any: ...
def linear_backward(
    grad_output: ArrayLike, input: ArrayLike, weight: ArrayLike, output_mask: object, /
) -> tuple[Any, Any, Any]: ...
def linear_cross_entropy(
    input: ArrayLike,
    weight: ArrayLike,
    labels: ArrayLike,
    bias: ArrayLike | None,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
    return_grad: bool,
    output_mask: object,
    /,
) -> Any: ...
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
def sigmoid_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    weight: ArrayLike | None,
    pos_weight: ArrayLike | None,
    negatives: bool,
    reduction: str,
    return_grad: bool,
    /,
) -> Any: ...
def max_pool2d(
    input: ArrayLike,
    kernel_size: SupportsIndex | Sequence[SupportsIndex],
    stride: SupportsIndex | Sequence[SupportsIndex] | None,
    padding: SupportsIndex | Sequence[SupportsIndex],
    dilation: SupportsIndex | Sequence[SupportsIndex],
    ceil_mode: bool,
    return_indices: bool,
    /,
) -> Any: ...
def max_pool2d_backward(
    grad_output: ArrayLike, indices: ArrayLike, input_shape: Sequence[SupportsIndex], /
) -> Any: ...
def avg_pool2d(
    input: ArrayLike,
    kernel_size: SupportsIndex | Sequence[SupportsIndex],
    stride: SupportsIndex | Sequence[SupportsIndex] | None,
    padding: SupportsIndex | Sequence[SupportsIndex],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: SupportsIndex | None,
    /,
) -> Any: ...
def avg_pool2d_backward(
    grad_output: ArrayLike,
    input_shape: Sequence[SupportsIndex],
    kernel_size: SupportsIndex | Sequence[SupportsIndex],
    stride: SupportsIndex | Sequence[SupportsIndex] | None,
    padding: SupportsIndex | Sequence[SupportsIndex],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: SupportsIndex | None,
    /,
) -> Any: ...
def adaptive_avg_pool2d(
    input: ArrayLike, output_size: SupportsIndex | Sequence[SupportsIndex | None] | None, /
) -> Any: ...
def adaptive_avg_pool2d_backward(
    grad_output: ArrayLike, input_shape: Sequence[SupportsIndex], /
) -> Any: ...
def soft_nms(
    boxes: ArrayLike,
    scores: ArrayLike,
    iou_threshold: float,
    method: str,
    sigma: float,
    score_threshold: float,
    /,
) -> tuple[NDArray[np.int64], Any]: ...
def box_iou_rotated(boxes1: ArrayLike, boxes2: ArrayLike, /) -> Any: ...
def nms_rotated(
    boxes: ArrayLike,
    scores: ArrayLike,
    iou_threshold: float,
    max_output: int | None,
    score_threshold: float | None,
    /,
) -> NDArray[np.int64]: ...
def weighted_boxes_fusion(
    boxes: ArrayLike,
    scores: ArrayLike,
    idxs: ArrayLike,
    model: ArrayLike | None,
    iou_threshold: float,
    skip_threshold: float,
    weights: ArrayLike | None,
    conf_type: str,
    allows_overflow: bool,
    /,
) -> tuple[Any, Any, NDArray[np.int64]]: ...
def box_area(boxes: ArrayLike, /) -> Any: ...
def box_convert(boxes: ArrayLike, in_fmt: str, out_fmt: str, /) -> Any: ...
def box_iou(boxes1: ArrayLike, boxes2: ArrayLike, /) -> Any: ...
def generalized_box_iou(boxes1: ArrayLike, boxes2: ArrayLike, /) -> Any: ...
def distance_box_iou(boxes1: ArrayLike, boxes2: ArrayLike, /) -> Any: ...
def complete_box_iou(boxes1: ArrayLike, boxes2: ArrayLike, /) -> Any: ...
