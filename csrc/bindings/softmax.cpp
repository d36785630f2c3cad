#include "../kernels.h"
#include "families.h"
#include "function.h"
#include "row_arrays.h"

namespace stableops {
namespace {

// softmax and log_softmax; `select` picks the kernel from the family.
template <auto select>
py::object forward(const py::object& x_object, const py::object& axis, const py::object& where,
                   const py::object& out) {
    const FloatArray x = as_float_array(x_object, "x");
    const ReducedAxes axes(axis, x, "x");
    const Array mask = as_mask(where, x);
    const Array* const inputs[] = {&x, &mask};
    Output y(out, x.dtype, x.ndim(), x.shape(), x,
             std::span<const Array* const>(inputs, mask.owner ? 2 : 1));
    if (x.size() > 0) {
        const Element type = element_of(x.dtype);
        RowShape shape;
        RowOperand x_rows, y_rows, mask_rows;
        if (mask.owner) {
            plan_rows(axes, shape,
                      {{&x, type, &x_rows},
                       {&y.array(), type, &y_rows},
                       {&mask, Element::boolean, &mask_rows}});
        } else {
            plan_rows(axes, shape, {{&x, type, &x_rows}, {&y.array(), type, &y_rows}});
        }
        const auto kernel = select(kernels_for(active_kernels().softmax, x.dtype));
        run_kernel(x.size(),
                   [&] { kernel(shape, y_rows, x_rows, mask.owner ? &mask_rows : nullptr); });
    }
    return y.finish();
}

template <auto select>
py::object backward(const py::object& grad_object, const py::object& output_object,
                    const py::object& axis, const py::object& out) {
    FloatArray grad = as_float_array(grad_object, "grad_output");
    FloatArray output = as_float_array(output_object, "output");
    check_same_shape(grad, "grad_output", output, "output");
    const ReducedAxes axes(axis, output, "output");
    const FloatArray* const both[] = {&grad, &output};
    const Dtype dtype = promoted(both);
    cast_to(grad, dtype);
    cast_to(output, dtype);
    const Array* const inputs[] = {&grad, &output};
    Output grad_x(out, dtype, output.ndim(), output.shape(), output, inputs);
    if (output.size() > 0) {
        const Element type = element_of(dtype);
        RowShape shape;
        RowOperand grad_rows, output_rows, grad_x_rows;
        plan_rows(axes, shape,
                  {{&output, type, &output_rows},
                   {&grad, type, &grad_rows},
                   {&grad_x.array(), type, &grad_x_rows}});
        const auto kernel = select(kernels_for(active_kernels().softmax, dtype));
        run_kernel(output.size(), [&] { kernel(shape, grad_x_rows, grad_rows, output_rows); });
    }
    return grad_x.finish();
}

}  // namespace

void bind_softmax(py::module_& m) {
    def<forward<[](const auto& f) { return f.softmax; }>>(m, "softmax");
    def<forward<[](const auto& f) { return f.log_softmax; }>>(m, "log_softmax");
    def<backward<[](const auto& f) { return f.softmax_backward; }>>(m, "softmax_backward");
    def<backward<[](const auto& f) { return f.log_softmax_backward; }>>(m, "log_softmax_backward");
}

}  // namespace stableops
