#pragma once
// How the normalisations walk over strided arrays.
#include <cstddef>

#include "row_plan.h"

namespace stableops {

// An array as samples x groups x planes x length. A row, which has a mean and a variance of its
// own, is one group of one sample; its columns are in the order (plane, position). Batch norm has
// one sample, the channels for groups, and the images for planes; group norm has the channels of a
// group for planes; layer norm has one group and one plane. `samples` and `length` are products
// of axes, each at least one.
struct NormShape {
    std::ptrdiff_t samples, groups, planes, length;
    bool planes_are_channels;  // group norm: they have weights of their own, and sums of their own
    int sample_ndim, length_ndim;
    std::ptrdiff_t sample_size[max_dims];
    std::ptrdiff_t length_size[max_dims];

    std::ptrdiff_t rows() const { return samples * groups; }
    std::ptrdiff_t cols() const { return planes * length; }
};

// One array over a NormShape. Strides are in bytes and may be zero or negative.
struct NormOperand {
    char* data;
    Element type;
    std::ptrdiff_t group_stride, plane_stride;
    std::ptrdiff_t sample_stride[max_dims];
    std::ptrdiff_t length_stride[max_dims];
};

// Where the weight and bias of an element are: at group * group_step + plane * plane_step +
// position * position_step. Either may be nullptr: 1 and 0.
struct NormAffine {
    const double* weight;
    const double* bias;
    std::ptrdiff_t group_step, plane_step, position_step;
    std::ptrdiff_t count;  // of weights
    bool rectify = false;  // what transform writes
};

struct LocalResponse {
    std::ptrdiff_t size;
    double alpha, beta, k;
};

}  // namespace stableops
