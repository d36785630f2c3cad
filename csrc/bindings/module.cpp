// The extension module stableops._core: a table of contents.
#define STABLEOPS_IMPORTS_NUMPY
#include "array.h"
#include "families.h"

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
    if (PyArray_ImportNumPyAPI() < 0) throw py::error_already_set();
    stableops::bind_boxes(m);
    stableops::bind_boxes_rotated(m);
    stableops::bind_config(m);
    stableops::bind_conv2d(m);
    stableops::bind_elementwise(m);
    stableops::bind_interpolate(m);
    stableops::bind_linear(m);
    stableops::bind_linear_cross_entropy(m);
    stableops::bind_logsumexp(m);
    stableops::bind_nms(m);
    stableops::bind_norm(m);
    stableops::bind_pool2d(m);
    stableops::bind_sigmoid_cross_entropy(m);
    stableops::bind_soft_nms(m);
    stableops::bind_softmax(m);
    stableops::bind_softmax_cross_entropy(m);
    stableops::bind_weighted_boxes_fusion(m);
}
