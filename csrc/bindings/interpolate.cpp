#include <array>
#include <cmath>
#include <limits>

#include "../kernels.h"
#include "../runtime/rearrange.h"
#include "families.h"
#include "function.h"
#include "settings.h"

namespace stableops {
namespace {

constexpr std::ptrdiff_t largest_side = std::numeric_limits<std::int32_t>::max();

bool is_sequence(const py::object& value) {
    return PyTuple_Check(value.ptr()) || PyList_Check(value.ptr());
}

// One value for both axes, or a pair.
std::array<py::object, 2> pair_of(const py::object& value, const char* name) {
    if (!is_sequence(value)) return {value, value};
    const py::sequence items = value;
    if (items.size() != 2)
        throw py::value_error(std::string(name) + "=" + text_of(value) + " has " +
                              std::to_string(items.size()) + " entries; two are allowed");
    return {items[0], items[1]};
}

std::ptrdiff_t side_of(const py::object& item, const py::object& value, const char* name) {
    return integer_in(item, value, name, 1, largest_side, "an int or a pair of ints is");
}

// Rows or columns of the image and of the result, and the scale factor (0: none).
struct Sides {
    std::ptrdiff_t in, out;
    double factor;
};

std::array<double, 2> factors_of(const py::object& scale_factor) {
    std::array<double, 2> factors{};
    const std::array<py::object, 2> items = pair_of(scale_factor, "scale_factor");
    for (std::size_t d = 0; d < 2; ++d) {
        factors[d] = number(items[d], "scale_factor");
        if (!(factors[d] > 0) || std::isinf(factors[d]))
            throw py::value_error("scale_factor=" + text_of(scale_factor) +
                                  " is not allowed; positive numbers are");
    }
    return factors;
}

bool is_bilinear(const py::object& mode, bool align_corners) {
    const bool bilinear = choice<bool>(mode, "mode", {"nearest", "bilinear"});
    if (!bilinear && align_corners)
        throw py::value_error("align_corners=True is not allowed with mode='nearest'");
    return bilinear;
}

void check_ndim(int ndim, const char* name, const std::string& shape) {
    if (ndim != 3 && ndim != 4)
        throw py::value_error(std::string(name) + " has shape " + shape +
                              "; it must be (N, C, H, W) or (C, H, W)");
}

ImageStrides strides_of(const Array& a) {
    const int c = a.ndim() - 3;
    return {c == 1 ? a.stride(0) : 0, a.stride(c), a.stride(c + 1), a.stride(c + 2)};
}

ResizeShape shape_of(int ndim, const npy_intp* sizes, const std::array<Sides, 2>& sides,
                     bool align_corners) {
    ResizeShape shape{};
    shape.batch = ndim == 4 ? sizes[0] : 1;
    shape.channels = sizes[ndim - 3];
    shape.in_h = sides[0].in;
    shape.in_w = sides[1].in;
    shape.out_h = sides[0].out;
    shape.out_w = sides[1].out;
    shape.factor_h = sides[0].factor;
    shape.factor_w = sides[1].factor;
    shape.align_corners = align_corners;
    return shape;
}

py::object interpolate(const py::object& input, const py::object& size,
                       const py::object& scale_factor, const py::object& mode, bool align_corners) {
    const FloatArray x = as_float_array(input, "input");
    const int ndim = x.ndim();
    check_ndim(ndim, "input", shape_text(x));
    const bool smooth = is_bilinear(mode, align_corners);
    if (size.is_none() == scale_factor.is_none())
        throw py::value_error("size=" + text_of(size) +
                              " and scale_factor=" + text_of(scale_factor) +
                              " are not allowed; one of them must be given");
    std::array<Sides, 2> sides{};
    npy_intp result[4];
    std::copy_n(x.shape(), ndim, result);
    for (std::size_t d = 0; d < 2; ++d) {
        npy_intp& side = result[ndim - 2 + static_cast<int>(d)];
        sides[d].in = side;
        if (side < 1 || side > largest_side)
            throw py::value_error("input has shape " + shape_text(x) +
                                  "; its images must have 1 to " + std::to_string(largest_side) +
                                  " rows and columns");
        if (scale_factor.is_none()) {
            sides[d].out = side_of(pair_of(size, "size")[d], size, "size");
        } else {
            const double factor = factors_of(scale_factor)[d];
            const double out = std::floor(static_cast<double>(side) * factor);
            if (!(out >= 1 && out <= static_cast<double>(largest_side)))
                throw py::value_error("scale_factor=" + text_of(scale_factor) +
                                      " is not allowed; images of " + std::to_string(side) +
                                      " rows or columns would get " + text_of(py::float_(out)));
            sides[d].out = static_cast<std::ptrdiff_t>(out);
            sides[d].factor = factor;
        }
        side = sides[d].out;
    }
    const FloatArray y = new_array(x.dtype, ndim, result, &x);
    ResizeShape shape = shape_of(ndim, x.shape(), sides, align_corners);
    shape.x = strides_of(x);
    shape.y = strides_of(y);
    if (y.size() > 0) {
        with_dtype(x.dtype, [&]<class T>(T) {
            const InterpolateKernels<T>& kernels = active_kernels().interpolate.of<T>();
            run_kernel(y.size(), [&] {
                (smooth ? kernels.bilinear : kernels.nearest)(y.data<T>(), x.data<const T>(),
                                                              shape);
            });
        });
    }
    return y.owner;
}

py::object interpolate_backward(const py::object& grad_output, const py::object& input_shape,
                                const py::object& mode, bool align_corners,
                                const py::object& scale_factor) {
    const FloatArray grad = as_float_array(grad_output, "grad_output");
    const int ndim = grad.ndim();
    check_ndim(ndim, "grad_output", shape_text(grad));
    const bool smooth = is_bilinear(mode, align_corners);
    if (!is_sequence(input_shape))
        throw py::type_error("input_shape=" + text_of(input_shape) +
                             " is not allowed; a tuple of ints is");
    const py::sequence items = input_shape;
    npy_intp result[4] = {};
    const bool fits = static_cast<int>(items.size()) == ndim;
    for (int d = 0; fits && d < ndim; ++d) {
        if (d < ndim - 2) {
            result[d] = PyNumber_AsSsize_t(py::object(items[d]).ptr(), nullptr);
            PyErr_Clear();
        } else {
            result[d] = side_of(items[d], input_shape, "input_shape");
        }
    }
    if (!fits || !std::equal(result, result + ndim - 2, grad.shape()))
        throw py::value_error("input_shape=" + text_of(input_shape) +
                              " does not belong to grad_output of shape " + shape_text(grad) +
                              "; all but H and W must agree");
    std::array<Sides, 2> sides{};
    for (std::size_t d = 0; d < 2; ++d) {
        const int axis = ndim - 2 + static_cast<int>(d);
        sides[d] = {result[axis], grad.shape()[axis], 0};
        if (sides[d].out < 1 || sides[d].out > largest_side)
            throw py::value_error("grad_output has shape " + shape_text(grad) +
                                  "; its images must have at least one row and one column");
        if (scale_factor.is_none()) continue;
        const double factor = factors_of(scale_factor)[d];
        if (std::floor(static_cast<double>(sides[d].in) * factor) !=
            static_cast<double>(sides[d].out))
            throw py::value_error("scale_factor=" + text_of(scale_factor) +
                                  " does not lead from input_shape=" + text_of(input_shape) +
                                  " to grad_output of shape " + shape_text(grad));
        sides[d].factor = factor;
    }
    const FloatArray grad_x = new_array(grad.dtype, ndim, result, &grad);
    ResizeShape shape = shape_of(ndim, result, sides, align_corners);
    shape.x = strides_of(grad_x);
    shape.y = strides_of(grad);
    if (grad_x.size() > 0) {
        with_dtype(grad.dtype, [&]<class T>(T) {
            const InterpolateKernels<T>& kernels = active_kernels().interpolate.of<T>();
            run_kernel(grad.size(), [&] {
                (smooth ? kernels.bilinear_backward : kernels.nearest_backward)(
                    grad_x.data<T>(), grad.data<const T>(), shape);
            });
        });
    }
    return grad_x.owner;
}

// Copies x to y, arrays of one shape, whose elements have 1, 2, 4 or 8 bytes and are whole strides
// apart.
void rearrange_into(const py::object& y_object, const py::object& x_object) {
    const Array y = {y_object}, x = {x_object};
    const Array* const arrays[] = {&y, &x};
    const PlannedElementwise<2> planned(arrays);
    if (!planned.any) return;
    const std::ptrdiff_t bytes = PyArray_ITEMSIZE(y.get());
    const auto& [ndim, size, stride] = planned.plan;
    const Rearrangement plan = {ndim, size, stride[0], stride[1]};
    run_kernel(y.size(), [&] {
        rearrange(plan, y.data<char>() + planned.offset[0] * bytes,
                  x.data<const char>() + planned.offset[1] * bytes,
                  static_cast<std::size_t>(bytes));
    });
}

}  // namespace

void bind_interpolate(py::module_& m) {
    def<interpolate>(m, "interpolate");
    def<interpolate_backward>(m, "interpolate_backward");
    def<rearrange_into>(m, "rearrange_into");
}

}  // namespace stableops
