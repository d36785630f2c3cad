#include "../kernels.h"
#include "families.h"
#include "function.h"

namespace stableops {
namespace {

template <class T>
T* at(const Array& array, std::ptrdiff_t offset) {
    return array.data<T>() + offset;
}

// y = kernel(x), with the kernel picked from the family by `select`.
template <auto select>
py::object unary(const py::object& x_object, const py::object& out) {
    const FloatArray x = as_float_array(x_object, "x");
    const Array* const inputs[] = {&x};
    Output y(out, x.dtype, x.ndim(), x.shape(), x, inputs);
    const PlannedElementwise<2> planned({&y.array(), &x});
    if (planned.any) {
        with_dtype(x.dtype, [&]<class T>(T) {
            const auto kernel = select(active_kernels().elementwise.of<T>());
            run_kernel(x.size(), [&] {
                kernel(planned.plan, at<T>(y.array(), planned.offset[0]),
                       at<const T>(x, planned.offset[1]));
            });
        });
    }
    return y.finish();
}

// grad_x = kernel(grad_output, saved), where `saved` is the forward pass's output or input.
enum class Saved { output, x };
template <Saved kind, auto select>
py::object unary_backward(const py::object& grad_object, const py::object& saved_object,
                          const py::object& out) {
    const char* saved_name = kind == Saved::x ? "x" : "output";
    FloatArray grad = as_float_array(grad_object, "grad_output");
    FloatArray saved = as_float_array(saved_object, saved_name);
    check_same_shape(grad, "grad_output", saved, saved_name);
    const FloatArray* const both[] = {&grad, &saved};
    const Dtype dtype = promoted(both);
    cast_to(grad, dtype);
    cast_to(saved, dtype);
    const Array* const inputs[] = {&grad, &saved};
    Output grad_x(out, dtype, grad.ndim(), grad.shape(), saved, inputs);
    const PlannedElementwise<3> planned({&grad_x.array(), &grad, &saved});
    if (planned.any) {
        with_dtype(dtype, [&]<class T>(T) {
            const auto kernel = select(active_kernels().elementwise.of<T>());
            run_kernel(grad.size(), [&] {
                kernel(planned.plan, at<T>(grad_x.array(), planned.offset[0]),
                       at<const T>(grad, planned.offset[1]), at<const T>(saved, planned.offset[2]));
            });
        });
    }
    return grad_x.finish();
}

}  // namespace

void bind_elementwise(py::module_& m) {
    def<unary<[](const auto& f) { return f.relu; }>>(m, "relu");
    def<unary<[](const auto& f) { return f.sigmoid; }>>(m, "sigmoid");
    def<unary<[](const auto& f) { return f.log_sigmoid; }>>(m, "log_sigmoid");
    def<unary<[](const auto& f) { return f.softplus; }>>(m, "softplus");
    def<unary_backward<Saved::output, [](const auto& f) { return f.relu_backward; }>>(
        m, "relu_backward");
    def<unary_backward<Saved::output, [](const auto& f) { return f.sigmoid_backward; }>>(
        m, "sigmoid_backward");
    def<unary_backward<Saved::x, [](const auto& f) { return f.log_sigmoid_backward; }>>(
        m, "log_sigmoid_backward");
    def<unary_backward<Saved::x, [](const auto& f) { return f.softplus_backward; }>>(
        m, "softplus_backward");
}

}  // namespace stableops
