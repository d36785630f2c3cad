#include <algorithm>
#include <cstring>

#include "../kernels.h"
#include "../linear_cross_entropy_plan.h"
#include "class_labels.h"
#include "families.h"
#include "function.h"
#include "output_mask.h"
#include "packed_weight.h"
#include "row_arrays.h"
#include "settings.h"

namespace stableops {
namespace {

// (..., features) as a matrix of tokens. Leading axes that memory does not traverse as one are
// copied.
StridedMatrix as_tokens(FloatArray& x) {
    auto merged_stride = [&](std::ptrdiff_t& row) {
        std::ptrdiff_t rows = 1;
        for (int d = x.ndim() - 2; d >= 0; --d) {
            if (x.shape()[d] == 1) continue;
            if (rows == 1)
                row = x.stride(d);
            else if (x.stride(d) != rows * row)
                return false;
            rows *= x.shape()[d];
        }
        return true;
    };
    StridedMatrix matrix{};
    if (!merged_stride(matrix.row)) {
        x.owner = contiguous(x).owner;
        merged_stride(matrix.row);
    }
    matrix.data = x.data<const void>();
    matrix.column = x.stride(x.ndim() - 1);
    return matrix;
}

py::object linear_cross_entropy(const py::object& input, const py::object& weight_object,
                                const py::object& labels_object, const py::object& bias_object,
                                const py::object& ignore_index_object,
                                const py::object& label_smoothing,
                                const py::object& reduction_object, bool return_grad,
                                const std::array<bool, 3>& mask) {
    FloatArray x = as_float_array(input, "input");
    FloatArray weight = unpacked_weight(weight_object, "linear_cross_entropy");
    FloatArray bias = weight;
    const bool has_bias = !bias_object.is_none();
    if (has_bias) bias = as_float_array(bias_object, "bias");
    if (weight.ndim() != 2 || weight.shape()[0] == 0)
        throw py::value_error("weight has shape " + shape_text(weight) +
                              "; it must be (classes, features), with at least one class");
    const npy_intp classes = weight.shape()[0];
    const npy_intp features = weight.shape()[1];
    if (x.ndim() == 0 || x.shape()[x.ndim() - 1] != features)
        throw py::value_error("input has shape " + shape_text(x) + " and weight has shape " +
                              shape_text(weight) + "; their last sizes must be the same");
    if (has_bias && (bias.ndim() != 1 || bias.shape()[0] != classes))
        throw py::value_error("bias has shape " + shape_text(bias) + "; it must be " +
                              shape_text(1, weight.shape()));
    const std::int64_t ignore_index =
        integer_in(ignore_index_object, ignore_index_object, "ignore_index", no_least, no_most);
    const double smoothing = number_in(label_smoothing, "label_smoothing", 0, 1);
    const Reduction reduction = reduction_of(reduction_object);
    const Array any_labels = as_array(labels_object, "labels");
    const bool were_unsigned = PyTypeNum_ISUNSIGNED(PyArray_TYPE(any_labels.get()));
    const Array labels = contiguous(as_int64_array(any_labels.owner, "labels"));
    if (labels.ndim() != x.ndim() - 1 ||
        !std::equal(labels.shape(), labels.shape() + labels.ndim(), x.shape()))
        throw py::value_error("labels has shape " + shape_text(labels) + "; it must be " +
                              shape_text(x.ndim() - 1, x.shape()) + " for input of shape " +
                              shape_text(x));
    check_indices(labels, were_unsigned, classes, ignore_index);

    const FloatArray* const all[] = {&x, &weight, &bias};
    const Dtype dtype = promoted(all);
    const Dtype compute = dtype == Dtype::float64 ? Dtype::float64 : Dtype::float32;
    cast_to(x, compute);
    cast_to(weight, compute);
    if (has_bias) cast_to(bias, compute);

    const bool each = reduction == Reduction::none;
    FloatArray loss = new_array(compute, each ? labels.ndim() : 0, labels.shape());
    FloatArray grads[3];
    const FloatArray* const like[] = {&x, &weight, &weight};
    LinearCrossEntropyArguments arguments = {};
    void** const written[] = {&arguments.grad_x, &arguments.grad_weight, &arguments.grad_bias};
    for (int i = 0; i < 3; ++i) {
        if (!return_grad || !mask[i]) continue;
        grads[i] = new_array(compute, i == 2 ? 1 : like[i]->ndim(), like[i]->shape());
        if (grads[i].size() == 0) continue;
        *written[i] = grads[i].data<void>();
        if (labels.size() == 0)
            std::memset(*written[i], 0, static_cast<std::size_t>(PyArray_NBYTES(grads[i].get())));
    }
    arguments.tokens = labels.size();
    arguments.features = features;
    arguments.classes = classes;
    arguments.x = as_tokens(x);
    arguments.weight = {weight.data<const void>(), weight.stride(0), weight.stride(1)};
    arguments.bias = has_bias ? bias.data<const void>() : nullptr;
    arguments.bias_stride = has_bias ? bias.stride(0) : 0;
    arguments.indices = labels.data<const std::int64_t>();
    arguments.ignore_index = ignore_index;
    arguments.smoothing = smoothing;
    arguments.reduction = reduction;
    arguments.losses = loss.data<void>();
    const auto kernel =
        kernels_for(active_kernels().softmax_cross_entropy, compute).linear_cross_entropy;
    run_kernel(labels.size() * std::max<npy_intp>(features, 1) * classes,
               [&] { kernel(arguments); });

    cast_to(loss, dtype);
    const py::object result = result_of(loss);
    if (!return_grad) return result;
    py::tuple gradients(3);
    for (int i = 0; i < 3; ++i) {
        if (mask[i]) cast_to(grads[i], dtype);
        gradients[i] = mask[i] ? grads[i].owner : py::none();
    }
    return py::make_tuple(result, gradients);
}

}  // namespace

void bind_linear_cross_entropy(py::module_& m) {
    def<[](const py::object& input, const py::object& weight, const py::object& labels,
           const py::object& bias, const py::object& ignore_index,
           const py::object& label_smoothing, const py::object& reduction, bool return_grad,
           const py::object& output_mask) {
        return linear_cross_entropy(input, weight, labels, bias, ignore_index, label_smoothing,
                                    reduction, return_grad, output_mask_of(output_mask));
    }>(m, "linear_cross_entropy");
}

}  // namespace stableops
