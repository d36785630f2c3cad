#include <algorithm>
#include <cmath>

#include "../kernels.h"
#include "class_labels.h"
#include "families.h"
#include "function.h"
#include "row_arrays.h"
#include "settings.h"

namespace stableops {
namespace {

bool has_shape(const Array& a, int ndim, const npy_intp* shape) {
    return a.ndim() == ndim && std::equal(shape, shape + ndim, a.shape());
}

int single_axis(const py::object& axis, const Array& logits) {
    if (logits.ndim() == 0) throw py::value_error("logits has shape () and no classes");
    if (!PyIndex_Check(axis.ptr()))
        throw py::type_error("axis=" + text_of(axis) + " is not allowed; an int is");
    if (PyLong_CheckExact(axis.ptr())) {
        // The common case without a vector.
        const std::ptrdiff_t value = whole_number(axis);
        if (value >= -logits.ndim() && value < logits.ndim())
            return static_cast<int>(value < 0 ? value + logits.ndim() : value);
    }
    return normalized_axes(axis, logits.ndim(), "logits")[0];
}

py::object softmax_cross_entropy(const py::object& logits_object, const py::object& labels_object,
                                 const py::object& axis_object, const py::object& weight_object,
                                 const py::object& ignore_index_object,
                                 const py::object& label_smoothing,
                                 const py::object& reduction_object, bool return_grad) {
    FloatArray logits = as_float_array(logits_object, "logits");
    const int axis = single_axis(axis_object, logits);
    const ReducedAxes axes(axis, logits);
    const Shape kept = axes.kept_shape(logits, false);
    const std::ptrdiff_t classes = logits.shape()[axis];
    const Reduction reduction = reduction_of(reduction_object);
    const std::int64_t ignore_index =
        integer_in(ignore_index_object, ignore_index_object, "ignore_index", no_least, no_most);
    const double smoothing = number_in(label_smoothing, "label_smoothing", 0, 1);
    if (classes == 0)
        throw py::value_error("logits has shape " + shape_text(logits) +
                              " and no classes along axis " + std::to_string(axis));

    CrossEntropyArguments arguments;  // too large to clear first
    arguments.indices = nullptr;
    arguments.weight = nullptr;
    arguments.weight_rows = nullptr;
    Array indices;
    FloatArray labels = {};
    const Array any_labels = as_array(labels_object, "labels");
    const int labels_type = PyArray_TYPE(any_labels.get());
    if (has_shape(any_labels, logits.ndim(), logits.shape())) {
        labels = as_float_array(any_labels.owner, "labels");
        if (PyTypeNum_ISINTEGER(labels_type) || PyTypeNum_ISBOOL(labels_type)) {
            cast_to(labels, logits.dtype);
        } else {
            const FloatArray* const both[] = {&logits, &labels};
            const Dtype dtype = promoted(both);
            cast_to(logits, dtype);
            cast_to(labels, dtype);
        }
    } else if (has_shape(any_labels, kept.ndim, kept.size)) {
        indices = contiguous(as_int64_array(any_labels.owner, "labels"));
        check_indices(indices, PyTypeNum_ISUNSIGNED(labels_type), classes, ignore_index);
        arguments.indices = indices.data<const std::int64_t>();
    } else {
        throw py::value_error("labels has shape " + shape_text(any_labels) + "; it must be " +
                              shape_text(kept.ndim, kept.size) + " (class indices) or " +
                              shape_text(logits) + " (class weights) for logits of shape " +
                              shape_text(logits) + " and axis=" + std::to_string(axis));
    }

    const Dtype compute = logits.dtype == Dtype::float64 ? Dtype::float64 : Dtype::float32;
    FloatArray weight = {};
    if (!weight_object.is_none()) {
        weight = as_float_array(weight_object, "weight");
        if (weight.ndim() != 1 || weight.shape()[0] != classes)
            throw py::value_error("weight has shape " + shape_text(weight) + "; it must be (" +
                                  std::to_string(classes) + ",), one weight a class");
        cast_to(weight, compute);
        weight.owner = contiguous(weight).owner;
        arguments.weight = weight.data<const void>();
    }

    const bool loss_a_row = reduction == Reduction::none;
    FloatArray loss = {};
    if (loss_a_row) loss = new_array(logits.dtype, kept.ndim, kept.size);
    AnyElement reduced_loss;
    FloatArray grad = {};
    if (return_grad) grad = new_array(logits.dtype, logits.ndim(), logits.shape(), &logits);

    const Element type = element_of(logits.dtype);
    RowShape shape;
    RowOperand labels_rows, weight_rows, grad_rows;
    // The logits stand in for operands that there are not.
    plan_rows(
        axes, shape,
        {{&logits, type, &arguments.x},
         {arguments.indices ? &logits : static_cast<const Array*>(&labels), type, &labels_rows},
         {return_grad ? static_cast<const Array*>(&grad) : &logits, type, &grad_rows},
         {loss_a_row ? static_cast<const Array*>(&loss) : &logits, type, &arguments.losses}},
        true);
    if (!loss_a_row) arguments.losses.data = reduced_loss.bytes;
    if (arguments.weight != nullptr) {
        // Along the classes it is contiguous, and the same for every row.
        weight_rows.data = static_cast<char*>(PyArray_DATA(weight.get()));
        weight_rows.type = element_of(compute);
        std::fill_n(weight_rows.kept_stride, shape.kept_ndim, 0);
        weight_rows.reduced_stride[0] = PyArray_ITEMSIZE(weight.get());
        arguments.weight_rows = &weight_rows;
    }
    arguments.shape = &shape;
    arguments.ignore_index = ignore_index;
    arguments.labels = &labels_rows;
    arguments.smoothing = smoothing;
    arguments.reduction = reduction;
    arguments.grad = return_grad ? &grad_rows : nullptr;
    const auto kernel =
        kernels_for(active_kernels().softmax_cross_entropy, logits.dtype).softmax_cross_entropy;
    run_kernel(logits.size(), [&] { kernel(arguments); });

    const py::object result = loss_a_row ? result_of(loss) : scalar_of(logits.dtype, reduced_loss);
    if (return_grad) return py::make_tuple(result, grad.owner);
    return result;
}

}  // namespace

void bind_softmax_cross_entropy(py::module_& m) {
    def<softmax_cross_entropy>(m, "softmax_cross_entropy");
}

}  // namespace stableops
