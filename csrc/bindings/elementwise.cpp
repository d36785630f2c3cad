#include "../kernels.h"
#include "families.h"
#include "function.h"
#include "settings.h"

namespace stableops {
namespace {

template <class T>
T* at(const Array& array, std::ptrdiff_t offset) {
    return array.data<T>() + offset;
}

// y = kernel(x, settings...), with the kernel picked from the family by `select`.
template <auto select, class... Settings>
py::object unary(const py::object& x_object, const py::object& out, Settings... settings) {
    const FloatArray x = as_float_array(x_object, "x");
    const Array* const inputs[] = {&x};
    Output y(out, x.dtype, x.ndim(), x.shape(), x, inputs);
    const PlannedElementwise<2> planned({&y.array(), &x});
    if (planned.any) {
        with_dtype(x.dtype, [&]<class T>(T) {
            const auto kernel = select(active_kernels().elementwise.of<T>());
            run_kernel(x.size(), [&] {
                kernel(planned.plan, at<T>(y.array(), planned.offset[0]),
                       at<const T>(x, planned.offset[1]), settings...);
            });
        });
    }
    return y.finish();
}

// grad_x = kernel(grad_output, saved, settings...), where `saved` is the forward pass's output or
// input.
enum class Saved { output, x };
template <Saved kind, auto select, class... Settings>
py::object unary_backward(const py::object& grad_object, const py::object& saved_object,
                          const py::object& out, Settings... settings) {
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
                       at<const T>(grad, planned.offset[1]), at<const T>(saved, planned.offset[2]),
                       settings...);
            });
        });
    }
    return grad_x.finish();
}

// A view of weight (one number, or one a channel) in the shape of x, whose channels are axis 1.
FloatArray channel_weight(const FloatArray& weight, const FloatArray& x) {
    const npy_intp channels = x.ndim() > 1 ? x.shape()[1] : 1;
    if (weight.ndim() > 1 || (weight.size() != 1 && (weight.size() != channels || x.ndim() < 2)))
        throw py::value_error("weight has shape " + shape_text(weight) +
                              "; it must have one element, or one for each of the " +
                              std::to_string(channels) + " channels of x");
    npy_intp strides[max_dims] = {};
    if (weight.size() != 1) strides[1] = PyArray_STRIDE(weight.get(), 0);
    PyArray_Descr* descr = PyArray_DESCR(weight.get());
    Py_INCREF(descr);
    PyObject* view = PyArray_NewFromDescr(&PyArray_Type, descr, x.ndim(), x.shape(), strides,
                                          PyArray_DATA(weight.get()), 0, nullptr);
    if (view == nullptr) throw py::error_already_set();
    return {{py::reinterpret_steal<py::object>(view)}, weight.dtype};
}

py::object prelu(const py::object& x_object, const py::object& weight_object,
                 const py::object& out) {
    FloatArray x = as_float_array(x_object, "x");
    FloatArray weight = as_float_array(weight_object, "weight");
    const FloatArray* const both[] = {&x, &weight};
    const Dtype dtype = promoted(both);
    cast_to(x, dtype);
    cast_to(weight, dtype);
    const FloatArray slope = channel_weight(weight, x);
    const Array* const inputs[] = {&x, &weight};
    Output y(out, dtype, x.ndim(), x.shape(), x, inputs);
    const PlannedElementwise<3> planned({&y.array(), &x, &slope});
    if (planned.any) {
        with_dtype(dtype, [&]<class T>(T) {
            const auto kernel = active_kernels().elementwise.of<T>().prelu;
            run_kernel(x.size(), [&] {
                kernel(planned.plan, at<T>(y.array(), planned.offset[0]),
                       at<const T>(x, planned.offset[1]), at<const T>(slope, planned.offset[2]));
            });
        });
    }
    return y.finish();
}

py::object prelu_grad_input(const py::object& grad_object, const py::object& x_object,
                            const py::object& weight_object) {
    FloatArray grad = as_float_array(grad_object, "grad_output");
    FloatArray x = as_float_array(x_object, "x");
    FloatArray weight = as_float_array(weight_object, "weight");
    check_same_shape(grad, "grad_output", x, "x");
    const FloatArray* const all[] = {&grad, &x, &weight};
    const Dtype dtype = promoted(all);
    cast_to(grad, dtype);
    cast_to(x, dtype);
    cast_to(weight, dtype);
    const FloatArray slope = channel_weight(weight, x);
    const FloatArray grad_x = new_array(dtype, x.ndim(), x.shape(), &x);
    const PlannedElementwise<4> planned({&grad_x, &grad, &x, &slope});
    if (planned.any) {
        with_dtype(dtype, [&]<class T>(T) {
            const auto kernel = active_kernels().elementwise.of<T>().prelu_backward;
            run_kernel(x.size(), [&] {
                kernel(planned.plan, at<T>(grad_x, planned.offset[0]),
                       at<const T>(grad, planned.offset[1]), at<const T>(x, planned.offset[2]),
                       at<const T>(slope, planned.offset[3]));
            });
        });
    }
    return grad_x.owner;
}

double probability(const py::object& value) {
    const double p = number(value, "p");
    if (!(p >= 0 && p <= 1))
        throw py::value_error("p=" + repr_of(value) + " is not allowed; it must be in [0, 1]");
    return p;
}

// mask ? x / (1 - p) : 0.
py::object dropout(const py::object& x_object, const char* name, const py::object& mask_object,
                   const py::object& p_object) {
    const double p = probability(p_object);
    const double scale = p < 1 ? 1 / (1 - p) : 0;
    const FloatArray x = as_float_array(x_object, name);
    const Array mask = as_bool_array(mask_object, "mask");
    check_same_shape(x, name, mask, "mask");
    const FloatArray y = new_array(x.dtype, x.ndim(), x.shape(), &x);
    const PlannedElementwise<3> planned({&y, &x, &mask});
    if (planned.any) {
        with_dtype(x.dtype, [&]<class T>(T) {
            const auto kernel = active_kernels().elementwise.of<T>().dropout;
            run_kernel(x.size(), [&] {
                kernel(planned.plan, at<T>(y, planned.offset[0]), at<const T>(x, planned.offset[1]),
                       at<const std::uint8_t>(mask, planned.offset[2]), scale);
            });
        });
    }
    return y.owner;
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
    def<[](const py::object& x, const py::object& negative_slope, const py::object& out) {
        return unary<[](const auto& f) { return f.leaky_relu; }>(
            x, out, number(negative_slope, "negative_slope"));
    }>(m, "leaky_relu");
    def<[](const py::object& grad_output, const py::object& x, const py::object& negative_slope,
           const py::object& out) {
        return unary_backward<Saved::x, [](const auto& f) { return f.leaky_relu_backward; }>(
            grad_output, x, out, number(negative_slope, "negative_slope"));
    }>(m, "leaky_relu_backward");
    def<prelu>(m, "prelu");
    def<prelu_grad_input>(m, "prelu_grad_input");
    def<[](const py::object& p) { probability(p); }>(m, "check_probability");
    def<[](const py::object& x, const py::object& mask, const py::object& p) {
        return dropout(x, "input", mask, p);
    }>(m, "dropout");
    def<[](const py::object& grad, const py::object& mask, const py::object& p) {
        return dropout(grad, "grad_output", mask, p);
    }>(m, "dropout_backward");
}

}  // namespace stableops
