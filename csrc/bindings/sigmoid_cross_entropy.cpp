#include <vector>

#include "../kernels.h"
#include "families.h"
#include "function.h"
#include "settings.h"

namespace stableops {
namespace {

// An optional operand in the dtype of the loss, broadcast to the shape of the logits.
FloatArray broadcast(const py::object& x, const char* name, const FloatArray& logits) {
    FloatArray array = as_float_array(x, name);
    cast_to(array, logits.dtype);
    const py::object shape = logits.owner.attr("shape");
    try {
        array.owner = py::module_::import("numpy").attr("broadcast_to")(array.owner, shape);
    } catch (py::error_already_set& error) {
        if (!error.matches(PyExc_ValueError)) throw;
        throw py::value_error(std::string(name) + " has shape " + shape_text(array) +
                              "; it must broadcast to the shape of logits, " + shape_text(logits));
    }
    return array;
}

template <class T>
T* at(const Array& array, std::ptrdiff_t offset) {
    return array.owner ? array.data<T>() + offset : nullptr;
}

py::object sigmoid_cross_entropy(const py::object& logits_object, const py::object& labels_object,
                                 const py::object& weight_object,
                                 const py::object& pos_weight_object, bool negatives,
                                 const py::object& reduction_object, bool return_grad) {
    const Reduction reduction = reduction_of(reduction_object);
    FloatArray logits = as_float_array(logits_object, "logits");
    FloatArray labels = as_float_array(labels_object, "labels");
    check_same_shape(logits, "logits", labels, "labels");
    if (labels.was_integral) cast_to(labels, logits.dtype);
    const FloatArray* const both[] = {&logits, &labels};
    const Dtype dtype = promoted(both);
    cast_to(logits, dtype);
    cast_to(labels, dtype);
    if (reduction == Reduction::mean && logits.size() == 0)
        throw py::value_error("logits has shape " + shape_text(logits) +
                              "; the mean needs at least one element");
    FloatArray weight = {}, pos_weight = {};
    if (!weight_object.is_none()) weight = broadcast(weight_object, "weight", logits);
    if (!pos_weight_object.is_none())
        pos_weight = broadcast(pos_weight_object, "pos_weight", logits);

    FloatArray grad = {};
    if (return_grad) grad = new_array(dtype, logits.ndim(), logits.shape(), &logits);
    const bool reduced = reduction != Reduction::none;
    FloatArray loss = {};
    if (!reduced) loss = new_array(dtype, logits.ndim(), logits.shape(), &logits);
    AnyElement reduced_loss;

    // The logits stand in for operands that there are not.
    auto or_logits = [&](const Array& array) -> const Array* {
        return array.owner ? &array : static_cast<const Array*>(&logits);
    };
    const PlannedElementwise<6> planned(
        {reduced ? or_logits(logits) : &loss, or_logits(grad), &logits, &labels, or_logits(weight),
         or_logits(pos_weight)},
        reduced ? Order::c : Order::memory);
    std::vector<LongSum> sums;
    if (reduced)
        sums.resize(static_cast<std::size_t>((logits.size() + loss_block - 1) / loss_block));
    with_dtype(dtype, [&]<class T>(T) {
        if (!planned.any) return;
        const auto kernel = active_kernels().sigmoid_cross_entropy.of<T>().sigmoid_cross_entropy;
        const std::ptrdiff_t* offset = planned.offset;
        run_kernel(logits.size(), [&] {
            kernel(planned.plan, reduced ? reduced_loss.data<T>() : at<T>(loss, offset[0]),
                   at<T>(grad, offset[1]), sums.data(), at<const T>(logits, offset[2]),
                   at<const T>(labels, offset[3]), at<const T>(weight, offset[4]),
                   at<const T>(pos_weight, offset[5]), negatives, reduction);
        });
    });
    const py::object result = reduced ? scalar_of(dtype, reduced_loss) : result_of(loss);
    if (!return_grad) return result;
    return py::make_tuple(result, result_of(grad));
}

}  // namespace

void bind_sigmoid_cross_entropy(py::module_& m) {
    def<sigmoid_cross_entropy>(m, "sigmoid_cross_entropy");
}

}  // namespace stableops
