// Linear layers as 1x1 convolutions: the rows of the input are the pixels of one image.
#include "../conv2d_shape.h"
#include "../kernels.h"
#include "families.h"
#include "function.h"
#include "output_mask.h"
#include "packed_weight.h"

namespace stableops {
namespace {

// The leading axes of one or two arrays as the rows and columns of an image, in row-major order.
struct Rows {
    std::ptrdiff_t height = 1, width = 1;
    std::ptrdiff_t stride_h[2] = {}, stride_w[2] = {};
};

// False if some array's strides cannot express that order with two axes.
bool merge_rows(std::span<const FloatArray* const> arrays, Rows& rows) {
    rows = Rows{};
    const int leading = arrays[0]->ndim() - 1;
    bool split = false;
    for (int d = leading - 1; d >= 0; --d) {
        const std::ptrdiff_t size = arrays[0]->shape()[d];
        if (size == 1) continue;
        std::ptrdiff_t& merged = split ? rows.height : rows.width;
        bool fits = true;
        for (std::size_t k = 0; k < arrays.size(); ++k) {
            const std::ptrdiff_t step = split ? rows.stride_h[k] : rows.stride_w[k];
            fits = fits && (merged == 1 || arrays[k]->stride(d) == merged * step);
        }
        if (!fits) {
            if (split) return false;
            split = true;
        }
        std::ptrdiff_t& extent = split ? rows.height : rows.width;
        if (extent == 1)
            for (std::size_t k = 0; k < arrays.size(); ++k)
                (split ? rows.stride_h[k] : rows.stride_w[k]) = arrays[k]->stride(d);
        extent *= size;
    }
    return true;
}

void make_contiguous(FloatArray& array) {
    PyObject* copy = PyArray_NewCopy(array.get(), NPY_CORDER);
    if (copy == nullptr) throw py::error_already_set();
    array.owner = py::reinterpret_steal<py::object>(copy);
}

// The shape with everything but the strides of y (and, in a gradient, of what is written).
template <class Weight>
Conv2dShape shape_of(const Weight& weight) {
    Conv2dShape shape{};
    shape.out_channels = weight.shape()[0];
    shape.in_channels = weight.shape()[1];
    shape.kernel_h = shape.kernel_w = 1;
    shape.stride_h = shape.stride_w = 1;
    shape.dilation_h = shape.dilation_w = 1;
    shape.groups = 1;
    shape.weight = {weight.stride(0), weight.stride(1), 0, 0};
    return shape;
}

void set_rows(Conv2dShape& shape, const Rows& rows, std::size_t x, const FloatArray& x_array,
              std::size_t y, const FloatArray& y_array) {
    // No rows are no images: kernels count on images of at least one pixel.
    const bool any = rows.height * rows.width > 0;
    shape.batch = any;
    shape.in_h = shape.out_h = any ? rows.height : 1;
    shape.in_w = shape.out_w = any ? rows.width : 1;
    shape.x = {0, x_array.stride(x_array.ndim() - 1), rows.stride_h[x], rows.stride_w[x]};
    shape.y = {0, y_array.stride(y_array.ndim() - 1), rows.stride_h[y], rows.stride_w[y]};
}

template <class F>
void run(const Conv2dShape& s, F&& f) {
    const double work = static_cast<double>(s.out_h) * static_cast<double>(s.out_w) *
                        static_cast<double>(s.in_channels) * static_cast<double>(s.out_channels);
    run_kernel(work < 8.0 * release_gil_elements ? 0 : release_gil_elements, f);
}

template <class Weight>
void check_two_axes(const Weight& weight) {
    if (weight.ndim() != 2)
        throw py::value_error("weight has shape " + shape_text(weight.ndim(), weight.shape()) +
                              "; it must be (out_features, in_features)");
}

template <class Weight>
void check_weight(const FloatArray& x, const Weight& weight) {
    check_two_axes(weight);
    if (x.ndim() == 0 || x.shape()[x.ndim() - 1] != weight.shape()[1])
        throw py::value_error("input has shape " + shape_text(x) + " and weight has shape " +
                              shape_text(weight.ndim(), weight.shape()) +
                              "; their last sizes must be the same");
}

template <class Weight>
std::vector<npy_intp> output_shape(const FloatArray& x, const Weight& weight) {
    std::vector<npy_intp> sizes(x.shape(), x.shape() + x.ndim());
    sizes.back() = weight.shape()[0];
    return sizes;
}

// rectify: the result. For networks that are compiled.
py::object linear(const py::object& input, const py::object& weight_object,
                  const py::object& bias_object, bool rectify) {
    FloatArray x = as_float_array(input, "input");
    WeightArgument weight(weight_object, 2, "pack_linear_weight");
    FloatArray bias = weight.array();
    const bool has_bias = !bias_object.is_none();
    if (has_bias) bias = as_float_array(bias_object, "bias");
    check_weight(x, weight);
    if (has_bias && (bias.ndim() != 1 || bias.shape()[0] != weight.shape()[0]))
        throw py::value_error("bias has shape " + shape_text(bias) + "; it must be " +
                              shape_text(1, weight.shape()));
    const FloatArray* const all[] = {&x, &weight.array(), &bias};
    const Dtype dtype = promoted(all);
    cast_to(x, dtype);
    weight.cast(dtype);
    if (has_bias) cast_to(bias, dtype);

    const std::vector<npy_intp> sizes = output_shape(x, weight);
    FloatArray y = new_array(dtype, x.ndim(), sizes.data());
    Rows rows;
    const FloatArray* const walked[] = {&x, &y};
    if (!merge_rows(walked, rows)) {
        make_contiguous(x);
        merge_rows(walked, rows);
    }
    Conv2dShape shape = shape_of(weight);
    set_rows(shape, rows, 0, x, 1, y);
    shape.epilogue.rectify = rectify;
    shape.bias = has_bias ? bias.stride(0) : 0;
    if (y.size() > 0) {
        with_dtype(dtype, [&]<class T>(T) {
            const auto kernel = active_kernels().conv2d.of<T>().conv2d;
            run(shape, [&] {
                kernel(y.data<T>(), x.data<const T>(), weight.data<T>(),
                       weight.panels<Compute<T>>(), has_bias ? bias.data<const T>() : nullptr,
                       shape);
            });
        });
    }
    return y.owner;
}

py::tuple linear_backward(const py::object& grad_object, const py::object& input,
                          const py::object& weight_object, const std::array<bool, 3>& mask) {
    FloatArray grad = as_float_array(grad_object, "grad_output");
    FloatArray x = as_float_array(input, "input");
    FloatArray weight = unpacked_weight(weight_object, "linear_backward");
    check_weight(x, weight);
    const std::vector<npy_intp> sizes = output_shape(x, weight);
    if (grad.ndim() != x.ndim() || !std::equal(sizes.begin(), sizes.end(), grad.shape()))
        throw py::value_error("grad_output has shape " + shape_text(grad) + "; it must be " +
                              shape_text(x.ndim(), sizes.data()));
    const FloatArray* const all[] = {&grad, &x, &weight};
    const Dtype dtype = promoted(all);
    cast_to(grad, dtype);
    cast_to(x, dtype);
    cast_to(weight, dtype);

    FloatArray grad_x = mask[0] ? new_array(dtype, x.ndim(), x.shape()) : x;
    FloatArray grad_weight = mask[1] ? new_array(dtype, 2, weight.shape()) : weight;
    FloatArray grad_bias = mask[2] ? new_array(dtype, 1, weight.shape()) : weight;
    Rows rows;
    const FloatArray* const walked[] = {&x, &grad};
    if (!merge_rows(walked, rows)) {
        make_contiguous(x);
        make_contiguous(grad);
        merge_rows(walked, rows);
    }
    Rows result_rows;
    const FloatArray* const written[] = {&grad_x, &grad};
    // Its strides are merged with two axes above, and those of a new array fit any.
    merge_rows(written, result_rows);
    with_dtype(dtype, [&]<class T>(T) {
        const Conv2dKernels<T>& kernels = active_kernels().conv2d.of<T>();
        Conv2dShape shape = shape_of(weight);
        if (mask[0] && grad_x.size() > 0) {
            set_rows(shape, result_rows, 0, grad_x, 1, grad);
            run(shape, [&] {
                kernels.grad_input(grad_x.data<T>(), grad.data<const T>(), weight.data<const T>(),
                                   nullptr, shape);
            });
        }
        set_rows(shape, rows, 0, x, 1, grad);
        if (mask[1] && grad_weight.size() > 0) {
            shape.weight = {grad_weight.stride(0), grad_weight.stride(1), 0, 0};
            run(shape, [&] {
                kernels.grad_weight(grad_weight.data<T>(), grad.data<const T>(), x.data<const T>(),
                                    shape, false);
            });
        }
        if (mask[2] && grad_bias.size() > 0) {
            shape.bias = 1;
            run(shape,
                [&] { kernels.grad_bias(grad_bias.data<T>(), grad.data<const T>(), shape); });
        }
    });
    py::tuple result(3);
    result[0] = mask[0] ? grad_x.owner : py::none();
    result[1] = mask[1] ? grad_weight.owner : py::none();
    result[2] = mask[2] ? grad_bias.owner : py::none();
    return result;
}

PackedWeight pack_linear_weight(const py::object& weight_object) {
    const FloatArray weight = unpacked_weight(weight_object, "pack_linear_weight");
    check_two_axes(weight);
    return PackedWeight(weight, shape_of(weight));
}

}  // namespace

void bind_linear(py::module_& m) {
    def<linear>(m, "linear");
    def<pack_linear_weight>(m, "pack_linear_weight");
    def<[](const py::object& grad_output, const py::object& input, const py::object& weight,
           const py::object& output_mask) {
        return linear_backward(grad_output, input, weight, output_mask_of(output_mask));
    }>(m, "linear_backward");
}

}  // namespace stableops
