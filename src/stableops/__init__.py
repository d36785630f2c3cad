"""Neural-network operations on NumPy arrays: right to the last digit, fast, the same bits
everywhere."""

from stableops._boxes import (
    box_area,
    box_convert,
    box_iou,
    complete_box_iou,
    distance_box_iou,
    generalized_box_iou,
)
from stableops._boxes_rotated import box_iou_rotated, nms_rotated
from stableops._config import (
    active_isa,
    available_isas,
    empty_cache,
    get_num_threads,
    set_num_threads,
    show_config,
)
from stableops._conv2d import (
    conv2d,
    conv2d_backward,
    conv_transpose2d,
    conv_transpose2d_backward,
    pack_conv2d_weight,
)
from stableops._core import version as __version__
from stableops._dropout import dropout, dropout_backward
from stableops._elementwise import (
    leaky_relu,
    leaky_relu_backward,
    log_sigmoid,
    log_sigmoid_backward,
    prelu,
    prelu_backward,
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    softplus,
    softplus_backward,
)
from stableops._interpolate import interpolate, interpolate_backward
from stableops._linear import linear, linear_backward, pack_linear_weight
from stableops._linear_cross_entropy import linear_cross_entropy
from stableops._logsumexp import logsumexp, logsumexp_backward
from stableops._nms import batched_nms, nms
from stableops._norm import (
    batch_norm,
    batch_norm_backward,
    group_norm,
    group_norm_backward,
    layer_norm,
    layer_norm_backward,
    local_response_norm,
    local_response_norm_backward,
)
from stableops._pixel_shuffle import pixel_shuffle, pixel_unshuffle
from stableops._pool2d import (
    adaptive_avg_pool2d,
    adaptive_avg_pool2d_backward,
    avg_pool2d,
    avg_pool2d_backward,
    max_pool2d,
    max_pool2d_backward,
)
from stableops._sigmoid_cross_entropy import sigmoid_cross_entropy
from stableops._soft_nms import soft_nms
from stableops._softmax import log_softmax, log_softmax_backward, softmax, softmax_backward
from stableops._softmax_cross_entropy import softmax_cross_entropy
from stableops._weighted_boxes_fusion import weighted_boxes_fusion

__all__ = [
    "__version__",
    "active_isa",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_backward",
    "available_isas",
    "avg_pool2d",
    "avg_pool2d_backward",
    "batch_norm",
    "batch_norm_backward",
    "batched_nms",
    "box_area",
    "box_convert",
    "box_iou",
    "box_iou_rotated",
    "complete_box_iou",
    "conv2d",
    "conv2d_backward",
    "conv_transpose2d",
    "conv_transpose2d_backward",
    "distance_box_iou",
    "dropout",
    "dropout_backward",
    "empty_cache",
    "generalized_box_iou",
    "get_num_threads",
    "group_norm",
    "group_norm_backward",
    "interpolate",
    "interpolate_backward",
    "layer_norm",
    "layer_norm_backward",
    "leaky_relu",
    "leaky_relu_backward",
    "linear",
    "linear_backward",
    "linear_cross_entropy",
    "local_response_norm",
    "local_response_norm_backward",
    "log_sigmoid",
    "log_sigmoid_backward",
    "log_softmax",
    "log_softmax_backward",
    "logsumexp",
    "logsumexp_backward",
    "max_pool2d",
    "max_pool2d_backward",
    "nms",
    "nms_rotated",
    "pack_conv2d_weight",
    "pack_linear_weight",
    "pixel_shuffle",
    "pixel_unshuffle",
    "prelu",
    "prelu_backward",
    "relu",
    "relu_backward",
    "set_num_threads",
    "show_config",
    "sigmoid",
    "sigmoid_backward",
    "sigmoid_cross_entropy",
    "soft_nms",
    "softmax",
    "softmax_backward",
    "softmax_cross_entropy",
    "softplus",
    "softplus_backward",
    "weighted_boxes_fusion",
]
