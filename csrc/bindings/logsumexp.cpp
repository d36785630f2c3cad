#include <algorithm>
#include <limits>

#include "../kernels.h"
#include "families.h"
#include "function.h"
#include "row_arrays.h"

namespace stableops {
namespace {

void fill(const FloatArray& array, double value) {
    const py::object number = py::float_(value);
    if (PyArray_FillWithScalar(array.get(), number.ptr()) < 0) throw py::error_already_set();
}

// x and b against each other, as SciPy does.
void broadcast_together(FloatArray& x, FloatArray& b) {
    try {
        const py::tuple both =
            py::module_::import("numpy").attr("broadcast_arrays")(x.owner, b.owner);
        x.owner = both[0];
        b.owner = both[1];
    } catch (py::error_already_set& error) {
        if (!error.matches(PyExc_ValueError)) throw;
        throw py::value_error("b has shape " + shape_text(b) +
                              "; it must be broadcastable with x, " + "which has shape " +
                              shape_text(x));
    }
}

py::object logsumexp(const py::object& x_object, const py::object& axis, bool keepdims,
                     const py::object& where, const py::object& b_object, bool return_sign,
                     const py::object& out) {
    FloatArray x = as_float_array(x_object, "x");
    FloatArray b = {};
    if (!b_object.is_none()) {
        b = as_float_array(b_object, "b");
        const FloatArray* const both[] = {&x, &b};
        const Dtype dtype = promoted(both);
        cast_to(x, dtype);
        cast_to(b, dtype);
        broadcast_together(x, b);
    }
    Array weights = as_mask(where, x);
    Element weights_type = Element::boolean;
    if (b.owner) {
        if (weights.owner) {
            // What the mask leaves out gets weight 0.
            const py::module_ numpy = py::module_::import("numpy");
            const py::object zero = numpy.attr("zeros")(py::tuple(), b.owner.attr("dtype"));
            b.owner = numpy.attr("where")(weights.owner, b.owner, zero);
        }
        weights = b;
        weights_type = element_of(x.dtype);
    }
    const ReducedAxes axes(axis, x, "x");
    const Shape kept = axes.kept_shape(x, keepdims);
    const Array* const inputs[] = {&x, &weights};
    Output y(out, x.dtype, kept.ndim, kept.size, x,
             std::span<const Array* const>(inputs, weights.owner ? 2 : 1));
    FloatArray sign = {};
    if (return_sign) sign = new_array(x.dtype, kept.ndim, kept.size);
    if (x.size() > 0) {
        const Element type = element_of(x.dtype);
        RowShape shape;
        RowOperand x_rows, y_rows, sign_rows, weight_rows;
        // x stands in for operands that there are not.
        plan_rows(axes, shape,
                  {{&x, type, &x_rows},
                   {&y.array(), type, &y_rows},
                   {return_sign ? static_cast<const Array*>(&sign) : &x, type, &sign_rows},
                   {weights.owner ? &weights : &x, weights_type, &weight_rows}});
        const auto kernel = kernels_for(active_kernels().logsumexp, x.dtype).logsumexp;
        run_kernel(x.size(), [&] {
            kernel(shape, y_rows, return_sign ? &sign_rows : nullptr, x_rows,
                   weights.owner ? &weight_rows : nullptr);
        });
    } else {
        fill(y.array(), -std::numeric_limits<double>::infinity());
        if (return_sign) fill(sign, 0);
    }
    if (!return_sign) return y.finish();
    return py::make_tuple(y.finish(), result_of(sign));
}

py::object logsumexp_backward(const py::object& grad_object, const py::object& x_object,
                              const py::object& output_object, const py::object& axis,
                              const py::object& out) {
    FloatArray grad = as_float_array(grad_object, "grad_output");
    FloatArray x = as_float_array(x_object, "x");
    const FloatArray output = as_float_array(output_object, "output");
    check_same_shape(grad, "grad_output", output, "output");
    const ReducedAxes axes(axis, x, "x");
    const Shape kept = axes.kept_shape(x, false);
    const Shape kept_ones = axes.kept_shape(x, true);
    const auto has_shape = [&](const Shape& shape) {
        return grad.ndim() == shape.ndim &&
               std::equal(shape.size, shape.size + shape.ndim, grad.shape());
    };
    if (!has_shape(kept) && !has_shape(kept_ones))
        throw py::value_error("grad_output has shape " + shape_text(grad) + "; it must be " +
                              shape_text(kept.ndim, kept.size) + " or " +
                              shape_text(kept_ones.ndim, kept_ones.size) + " for x of shape " +
                              shape_text(x));
    const FloatArray* const both[] = {&grad, &x};
    const Dtype dtype = promoted(both);
    cast_to(grad, dtype);
    cast_to(x, dtype);
    const Array* const inputs[] = {&x, &grad};
    Output grad_x(out, dtype, x.ndim(), x.shape(), x, inputs);
    if (x.size() > 0) {
        const Element type = element_of(dtype);
        RowShape shape;
        RowOperand x_rows, grad_rows, grad_x_rows;
        plan_rows(axes, shape,
                  {{&x, type, &x_rows},
                   {&grad_x.array(), type, &grad_x_rows},
                   {&grad, type, &grad_rows}});
        const auto kernel = kernels_for(active_kernels().logsumexp, dtype).logsumexp_backward;
        run_kernel(x.size(), [&] { kernel(shape, grad_x_rows, grad_rows, x_rows); });
    }
    return grad_x.finish();
}

}  // namespace

void bind_logsumexp(py::module_& m) {
    def<logsumexp>(m, "logsumexp");
    def<logsumexp_backward>(m, "logsumexp_backward");
}

}  // namespace stableops
