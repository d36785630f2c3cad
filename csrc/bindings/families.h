#pragma once
// One bind function a family, each in the file of its name.
#include <pybind11/pybind11.h>

namespace stableops {

void bind_boxes(pybind11::module_& m);
void bind_boxes_rotated(pybind11::module_& m);
void bind_config(pybind11::module_& m);
void bind_conv2d(pybind11::module_& m);
void bind_elementwise(pybind11::module_& m);
void bind_interpolate(pybind11::module_& m);
void bind_linear(pybind11::module_& m);
void bind_linear_cross_entropy(pybind11::module_& m);
void bind_logsumexp(pybind11::module_& m);
void bind_nms(pybind11::module_& m);
void bind_norm(pybind11::module_& m);
void bind_pool2d(pybind11::module_& m);
void bind_sigmoid_cross_entropy(pybind11::module_& m);
void bind_soft_nms(pybind11::module_& m);
void bind_softmax(pybind11::module_& m);
void bind_softmax_cross_entropy(pybind11::module_& m);
void bind_weighted_boxes_fusion(pybind11::module_& m);

}  // namespace stableops
