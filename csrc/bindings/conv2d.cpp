#include <algorithm>
#include <limits>

#include "../conv2d_shape.h"
#include "../kernels.h"
#include "families.h"
#include "function.h"
#include "output_mask.h"
#include "packed_weight.h"
#include "settings.h"

namespace stableops {
namespace {

using Pair = std::array<std::ptrdiff_t, 2>;

// Beyond this nothing is meant, and sums of sizes stay far from 63 bits.
constexpr std::ptrdiff_t largest_setting = std::numeric_limits<std::int32_t>::max();

std::ptrdiff_t setting(const py::handle& item, const py::object& value, const char* name,
                       std::ptrdiff_t least, const char* forms) {
    return integer_in(item, value, name, least, largest_setting, forms);
}

bool is_pair(const py::handle& value) {
    return (PyTuple_Check(value.ptr()) || PyList_Check(value.ptr())) && py::len(value) == 2;
}

Pair pair_of(const py::object& value, const char* name, std::ptrdiff_t least) {
    constexpr const char* forms = "an int or a pair of ints is";
    if (is_pair(value)) {
        const py::sequence both = py::reinterpret_borrow<py::sequence>(value);
        return {setting(both[0], value, name, least, forms),
                setting(both[1], value, name, least, forms)};
    }
    const std::ptrdiff_t number = setting(value, value, name, least, forms);
    return {number, number};
}

// An image operand: (N, C, H, W), or (C, H, W) as a batch of one.
struct Image {
    Pair size;
    std::ptrdiff_t batch, channels;
    Strides4 stride;

    Image(const FloatArray& array, const char* name) {
        const int ndim = array.ndim();
        if (ndim != 3 && ndim != 4)
            throw py::value_error(std::string(name) + " has shape " + shape_text(array) +
                                  "; it must be (N, C, H, W) or (C, H, W)");
        const int first = ndim - 3;
        batch = first ? array.shape()[0] : 1;
        channels = array.shape()[first];
        size = {array.shape()[first + 1], array.shape()[first + 2]};
        stride = {first ? array.stride(0) : 0, array.stride(first), array.stride(first + 1),
                  array.stride(first + 2)};
    }
};

struct Settings {
    Pair stride, dilation;
    std::ptrdiff_t groups;
    const py::object& padding;
};

Settings settings_of(const py::object& stride, const py::object& padding,
                     const py::object& dilation, const py::object& groups) {
    return {pair_of(stride, "stride", 1), pair_of(dilation, "dilation", 1),
            setting(groups, groups, "groups", 1, "an int is"), padding};
}

struct Padding {
    std::ptrdiff_t begin, end;
};

// Output size ceil(in / stride); an odd row or column goes to the end.
Padding same_padding(std::ptrdiff_t in, std::ptrdiff_t stride, std::ptrdiff_t kernel) {
    const std::ptrdiff_t outputs = (in + stride - 1) / stride;
    const std::ptrdiff_t total = std::max<std::ptrdiff_t>((outputs - 1) * stride + kernel - in, 0);
    return {total / 2, total - total / 2};
}

std::array<Padding, 2> padding_of(const py::object& value, const Pair& in, const Pair& kernel,
                                  const Pair& stride) {
    constexpr const char* forms =
        "an int, a pair of ints, 'valid', 'same' or ((top, bottom), (left, right)) is";
    if (PyUnicode_Check(value.ptr())) {
        const std::string text = py::str(value);
        if (text == "valid") return {};
        if (text != "same") throw py::value_error(refusal("padding", value) + forms);
        return {same_padding(in[0], stride[0], kernel[0]),
                same_padding(in[1], stride[1], kernel[1])};
    }
    auto ends = [&](const py::handle& side) -> Padding {
        if (is_pair(side)) {
            const py::sequence both = py::reinterpret_borrow<py::sequence>(side);
            return {setting(both[0], value, "padding", 0, forms),
                    setting(both[1], value, "padding", 0, forms)};
        }
        const std::ptrdiff_t number = setting(side, value, "padding", 0, forms);
        return {number, number};
    };
    if (!is_pair(value)) {
        const std::ptrdiff_t number = setting(value, value, "padding", 0, forms);
        return {Padding{number, number}, Padding{number, number}};
    }
    const py::sequence both = py::reinterpret_borrow<py::sequence>(value);
    if (is_pair(both[0]) != is_pair(both[1]))
        throw py::type_error(refusal("padding", value) + forms);
    return {ends(both[0]), ends(both[1])};
}

void check_kernel(int ndim, const npy_intp* shape) {
    if (ndim != 4)
        throw py::value_error("weight has shape " + shape_text(ndim, shape) +
                              "; it must be (K, C / groups, R, S)");
    for (int d = 2; d < 4; ++d) {
        if (shape[d] < 1)
            throw py::value_error("weight has shape " + shape_text(ndim, shape) +
                                  "; its kernel must have at least one row and one column");
        if (shape[d] > largest_setting)
            throw py::value_error("weight has shape " + shape_text(ndim, shape) +
                                  "; its kernel may have at most " +
                                  std::to_string(largest_setting) + " rows and columns");
    }
}

// Everything but strides other than those of the input.
Conv2dShape checked_shape(const FloatArray& input, int ndim, const npy_intp* k,
                          const Settings& settings) {
    const Image x(input, "input");
    check_kernel(ndim, k);
    const std::string weight_text = shape_text(ndim, k);
    const std::ptrdiff_t groups = settings.groups;
    if (x.channels % groups != 0 || k[0] % groups != 0 || x.channels / groups != k[1])
        throw py::value_error("input has shape " + shape_text(input) + " and weight has shape " +
                              weight_text + " with groups=" + std::to_string(groups) +
                              "; both channel counts must be multiples of groups, and the "
                              "weight's second size must be the input's channels / groups");
    const Pair taps{k[2], k[3]};
    Pair stride = settings.stride;
    Pair dilation = settings.dilation;
    Pair reach{};
    for (int d = 0; d < 2; ++d) {
        if (taps[d] == 1) dilation[d] = 1;
        reach[d] = (taps[d] - 1) * dilation[d] + 1;
    }
    const std::array<Padding, 2> pad = padding_of(settings.padding, x.size, reach, stride);
    Pair out{};
    for (int d = 0; d < 2; ++d) {
        const std::ptrdiff_t padded = x.size[d] + pad[d].begin + pad[d].end;
        if (reach[d] > padded)
            throw py::value_error("weight has shape " + weight_text +
                                  ", with dilation a kernel of " + std::to_string(reach[0]) +
                                  " x " + std::to_string(reach[1]) + ", and input has shape " +
                                  shape_text(input) + ", padded " +
                                  std::to_string(x.size[0] + pad[0].begin + pad[0].end) + " x " +
                                  std::to_string(x.size[1] + pad[1].begin + pad[1].end) +
                                  "; the kernel must not be larger than the padded image");
        out[d] = (padded - reach[d]) / stride[d] + 1;
        // A stride that steps over the whole image does what the image's size does.
        stride[d] = std::min(stride[d], padded);
    }
    Conv2dShape shape{};
    shape.batch = x.batch;
    shape.in_channels = x.channels;
    shape.in_h = x.size[0];
    shape.in_w = x.size[1];
    shape.out_channels = k[0];
    shape.kernel_h = taps[0];
    shape.kernel_w = taps[1];
    shape.out_h = out[0];
    shape.out_w = out[1];
    shape.stride_h = stride[0];
    shape.stride_w = stride[1];
    shape.pad_top = pad[0].begin;
    shape.pad_left = pad[1].begin;
    shape.dilation_h = dilation[0];
    shape.dilation_w = dilation[1];
    shape.groups = groups;
    shape.x = x.stride;
    return shape;
}

template <class Weight>
Strides4 weight_strides(const Weight& weight) {
    return {weight.stride(0), weight.stride(1), weight.stride(2), weight.stride(3)};
}

// run_kernel decides by elements; a convolution does that much work per multiply-add.
template <class F>
void run(const Conv2dShape& s, F&& f) {
    const double work = static_cast<double>(s.batch) * static_cast<double>(s.out_channels) *
                        static_cast<double>(s.out_h) * static_cast<double>(s.out_w) *
                        static_cast<double>(s.in_channels / s.groups) *
                        static_cast<double>(s.kernel_h) * static_cast<double>(s.kernel_w);
    run_kernel(work < 8.0 * release_gil_elements ? 0 : release_gil_elements, f);
}

py::object new_channels_last(Dtype dtype, const npy_intp* sizes) {
    const npy_intp in_memory[] = {sizes[0], sizes[2], sizes[3], sizes[1]};
    const FloatArray images = new_array(dtype, 4, in_memory);
    npy_intp order[] = {0, 3, 1, 2};
    PyArray_Dims axes = {order, 4};
    PyObject* view = PyArray_Transpose(images.get(), &axes);
    if (view == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(view);
}

// add: to what `out` holds. rectify: that, at the end. channels_last: the order of a new array, for
// 4-D input. For networks that are compiled.
py::object conv2d(const py::object& input_object, const py::object& weight_object,
                  const py::object& bias_object, const py::object& stride,
                  const py::object& padding, const py::object& dilation, const py::object& groups,
                  const py::object& out_object, bool add, bool rectify, bool channels_last) {
    py::object out = out_object;
    if (add && out.is_none()) throw py::value_error("out is None; there is nothing to add to");
    FloatArray x = as_float_array(input_object, "input");
    WeightArgument weight(weight_object, 4, "pack_conv2d_weight");
    FloatArray bias = weight.array();
    const bool has_bias = !bias_object.is_none();
    if (has_bias) bias = as_float_array(bias_object, "bias");
    const Settings settings = settings_of(stride, padding, dilation, groups);
    if (weight.packed() && weight.packed()->groups != settings.groups)
        throw py::value_error("groups=" + std::to_string(settings.groups) +
                              " does not fit; weight is " + weight.packed()->text());
    Conv2dShape shape = checked_shape(x, weight.ndim(), weight.shape(), settings);
    if (has_bias && (bias.ndim() != 1 || bias.shape()[0] != shape.out_channels))
        throw py::value_error("bias has shape " + shape_text(bias) + "; it must be " +
                              shape_text(1, weight.shape()));
    const FloatArray* const all[] = {&x, &weight.array(), &bias};
    const Dtype dtype = promoted(all);
    cast_to(x, dtype);
    weight.cast(dtype);
    if (has_bias) cast_to(bias, dtype);
    shape.x = Image(x, "input").stride;
    shape.weight = weight_strides(weight);

    const npy_intp sizes[] = {shape.batch, shape.out_channels, shape.out_h, shape.out_w};
    const int ndim = x.ndim();
    const Array* const inputs[] = {&x, &weight.array(), &bias};
    if (channels_last && out.is_none() && ndim == 4) out = new_channels_last(dtype, sizes);
    Output output(out, dtype, ndim, sizes + (4 - ndim), x, inputs, false);
    const FloatArray& y = output.array();
    if (add && y.owner.ptr() != out.ptr() &&
        PyArray_CopyInto(y.get(), reinterpret_cast<PyArrayObject*>(out.ptr())) < 0)
        throw py::error_already_set();
    shape.y = Image(y, "out").stride;
    shape.epilogue = {add, rectify};
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
    return output.finish();
}

// Of a convolution of this shape or of the transposed one, whose input and output change places.
py::tuple gradients(FloatArray grad, FloatArray x, FloatArray weight, Conv2dShape shape,
                    bool transposed, const std::array<bool, 3>& mask) {
    const std::ptrdiff_t channels = transposed ? shape.in_channels : shape.out_channels;
    const npy_intp sizes[] = {shape.batch, channels, transposed ? shape.in_h : shape.out_h,
                              transposed ? shape.in_w : shape.out_w};
    const npy_intp* expected = sizes + (4 - x.ndim());
    if (grad.ndim() != x.ndim() || !std::equal(expected, expected + x.ndim(), grad.shape()))
        throw py::value_error("grad_output has shape " + shape_text(grad) + "; it must be " +
                              shape_text(x.ndim(), expected));
    const FloatArray* const all[] = {&grad, &x, &weight};
    const Dtype dtype = promoted(all);
    cast_to(grad, dtype);
    cast_to(x, dtype);
    cast_to(weight, dtype);
    Strides4& input = transposed ? shape.y : shape.x;
    (transposed ? shape.x : shape.y) = Image(grad, "grad_output").stride;

    py::tuple result(3);
    for (int i = 0; i < 3; ++i) result[i] = py::none();
    with_dtype(dtype, [&]<class T>(T) {
        const Conv2dKernels<T>& kernels = active_kernels().conv2d.of<T>();
        const T* grad_y = grad.data<const T>();
        if (mask[0]) {
            FloatArray grad_x = new_array(dtype, x.ndim(), x.shape(), &x);
            input = Image(grad_x, "input").stride;
            shape.weight = weight_strides(weight);
            T* to = grad_x.data<T>();
            const T* w = weight.data<const T>();
            if (x.size() > 0)
                run(shape, [&] {
                    if (transposed)
                        kernels.conv2d(to, grad_y, w, nullptr, nullptr, shape);
                    else
                        kernels.grad_input(to, grad_y, w, nullptr, shape);
                });
            result[0] = grad_x.owner;
        }
        if (mask[1]) {
            FloatArray grad_weight = new_array(dtype, 4, weight.shape(), &weight);
            input = Image(x, "input").stride;
            shape.weight = weight_strides(grad_weight);
            T* to = grad_weight.data<T>();
            const T* from = x.data<const T>();
            if (weight.size() > 0)
                run(shape, [&] {
                    kernels.grad_weight(to, transposed ? from : grad_y, transposed ? grad_y : from,
                                        shape, false);
                });
            result[1] = grad_weight.owner;
        }
        if (mask[2]) {
            FloatArray grad_bias = new_array(dtype, 1, sizes + 1);
            Conv2dShape sums = shape;
            sums.y = transposed ? shape.x : shape.y;
            sums.out_channels = channels;
            sums.out_h = sizes[2];
            sums.out_w = sizes[3];
            sums.bias = 1;
            run(shape, [&] { kernels.grad_bias(grad_bias.data<T>(), grad_y, sums); });
            result[2] = grad_bias.owner;
        }
    });
    return result;
}

py::tuple conv2d_backward(const py::object& grad_object, const py::object& input_object,
                          const py::object& weight_object, const py::object& stride,
                          const py::object& padding, const py::object& dilation,
                          const py::object& groups, const std::array<bool, 3>& mask) {
    const FloatArray grad = as_float_array(grad_object, "grad_output");
    const FloatArray x = as_float_array(input_object, "input");
    const FloatArray weight = unpacked_weight(weight_object, "conv2d_backward");
    const Conv2dShape shape = checked_shape(x, weight.ndim(), weight.shape(),
                                            settings_of(stride, padding, dilation, groups));
    return gradients(grad, x, weight, shape, false, mask);
}

// The convolution that a transposed one is the gradient of: its output is our input, its input our
// output. Everything but the strides of arrays.
Conv2dShape transposed_shape(const FloatArray& input, const FloatArray& weight,
                             const Settings& settings, const py::object& output_padding) {
    const Image y(input, "input");
    if (weight.ndim() != 4)
        throw py::value_error("weight has shape " + shape_text(weight) +
                              "; it must be (C, K / groups, R, S)");
    const npy_intp* k = weight.shape();
    if (y.channels % settings.groups != 0 || y.channels != k[0])
        throw py::value_error("input has shape " + shape_text(input) + " and weight has shape " +
                              shape_text(weight) +
                              " with groups=" + std::to_string(settings.groups) +
                              "; the weight's first size must be the input's channels, a multiple "
                              "of groups");
    const Pair pad = pair_of(settings.padding, "padding", 0);
    const Pair extra = pair_of(output_padding, "output_padding", 0);
    Pair size{};
    for (int d = 0; d < 2; ++d) {
        const std::ptrdiff_t taps = k[2 + d];
        if (taps < 1 || taps > largest_setting)
            throw py::value_error("weight has shape " + shape_text(weight) +
                                  "; its kernel must have 1 to " + std::to_string(largest_setting) +
                                  " rows and columns");
        if (extra[d] >= settings.stride[d] && extra[d] >= settings.dilation[d])
            throw py::value_error(refusal("output_padding", output_padding) +
                                  "it must be less than stride or dilation");
        if (y.size[d] < 1 || y.size[d] > largest_setting)
            throw py::value_error("input has shape " + shape_text(input) +
                                  "; its images must have at least one row and one column");
        size[d] = (y.size[d] - 1) * settings.stride[d] - 2 * pad[d] +
                  settings.dilation[d] * (taps - 1) + extra[d] + 1;
        if (size[d] < 1)
            throw py::value_error("input has shape " + shape_text(input) + " and padding=" +
                                  repr_of(settings.padding) + " leaves a result of size " +
                                  std::to_string(size[d]) + "; it must be at least 1");
    }
    Conv2dShape shape{};
    shape.batch = y.batch;
    shape.out_channels = y.channels;
    shape.out_h = y.size[0];
    shape.out_w = y.size[1];
    shape.in_channels = k[1] * settings.groups;
    shape.in_h = size[0];
    shape.in_w = size[1];
    shape.kernel_h = k[2];
    shape.kernel_w = k[3];
    shape.stride_h = settings.stride[0];
    shape.stride_w = settings.stride[1];
    shape.pad_top = pad[0];
    shape.pad_left = pad[1];
    shape.dilation_h = settings.dilation[0];
    shape.dilation_w = settings.dilation[1];
    shape.groups = settings.groups;
    return shape;
}

py::object conv_transpose2d(const py::object& input_object, const py::object& weight_object,
                            const py::object& bias_object, const py::object& stride,
                            const py::object& padding, const py::object& output_padding,
                            const py::object& groups, const py::object& dilation) {
    FloatArray x = as_float_array(input_object, "input");
    FloatArray weight = unpacked_weight(weight_object, "conv_transpose2d");
    const bool has_bias = !bias_object.is_none();
    FloatArray bias = has_bias ? as_float_array(bias_object, "bias") : weight;
    Conv2dShape shape =
        transposed_shape(x, weight, settings_of(stride, padding, dilation, groups), output_padding);
    const npy_intp channels[] = {shape.in_channels};
    if (has_bias && (bias.ndim() != 1 || bias.shape()[0] != shape.in_channels))
        throw py::value_error("bias has shape " + shape_text(bias) + "; it must be " +
                              shape_text(1, channels));
    const FloatArray* const all[] = {&x, &weight, &bias};
    const Dtype dtype = promoted(all);
    cast_to(x, dtype);
    cast_to(weight, dtype);
    cast_to(bias, dtype);
    const npy_intp sizes[] = {shape.batch, shape.in_channels, shape.in_h, shape.in_w};
    const int ndim = x.ndim();
    FloatArray y = new_array(dtype, ndim, sizes + (4 - ndim), &x);
    shape.x = Image(y, "output").stride;
    shape.y = Image(x, "input").stride;
    shape.weight = weight_strides(weight);
    shape.bias = has_bias ? bias.stride(0) : 0;
    if (y.size() > 0) {
        with_dtype(dtype, [&]<class T>(T) {
            const auto kernel = active_kernels().conv2d.of<T>().grad_input;
            run(shape, [&] {
                kernel(y.data<T>(), x.data<const T>(), weight.data<const T>(),
                       has_bias ? bias.data<const T>() : nullptr, shape);
            });
        });
    }
    return y.owner;
}

py::tuple conv_transpose2d_backward(const py::object& grad_object, const py::object& input_object,
                                    const py::object& weight_object, const py::object& stride,
                                    const py::object& padding, const py::object& output_padding,
                                    const py::object& groups, const py::object& dilation,
                                    const std::array<bool, 3>& mask) {
    const FloatArray grad = as_float_array(grad_object, "grad_output");
    const FloatArray x = as_float_array(input_object, "input");
    const FloatArray weight = unpacked_weight(weight_object, "conv_transpose2d_backward");
    const Conv2dShape shape =
        transposed_shape(x, weight, settings_of(stride, padding, dilation, groups), output_padding);
    return gradients(grad, x, weight, shape, true, mask);
}

PackedWeight pack_conv2d_weight(const py::object& weight_object, const py::object& groups_object) {
    const FloatArray weight = unpacked_weight(weight_object, "pack_conv2d_weight");
    const std::ptrdiff_t groups = setting(groups_object, groups_object, "groups", 1, "an int is");
    check_kernel(weight.ndim(), weight.shape());
    const npy_intp* k = weight.shape();
    if (k[0] % groups != 0)
        throw py::value_error("weight has shape " + shape_text(weight) +
                              " with groups=" + std::to_string(groups) +
                              "; its first size must be a multiple of groups");
    Conv2dShape shape{};
    shape.groups = groups;
    shape.out_channels = k[0];
    shape.in_channels = k[1] * groups;
    shape.kernel_h = k[2];
    shape.kernel_w = k[3];
    shape.weight = weight_strides(weight);
    return PackedWeight(weight, shape);
}

}  // namespace

void bind_conv2d(py::module_& m) {
    bind_packed_weight(m);
    def<conv2d>(m, "conv2d");
    def<pack_conv2d_weight>(m, "pack_conv2d_weight");
    def<[](const py::object& grad_output, const py::object& input, const py::object& weight,
           const py::object& stride, const py::object& padding, const py::object& dilation,
           const py::object& groups, const py::object& output_mask) {
        return conv2d_backward(grad_output, input, weight, stride, padding, dilation, groups,
                               output_mask_of(output_mask));
    }>(m, "conv2d_backward");
    def<conv_transpose2d>(m, "conv_transpose2d");
    def<[](const py::object& grad_output, const py::object& input, const py::object& weight,
           const py::object& stride, const py::object& padding, const py::object& output_padding,
           const py::object& groups, const py::object& dilation, const py::object& output_mask) {
        return conv_transpose2d_backward(grad_output, input, weight, stride, padding,
                                         output_padding, groups, dilation,
                                         output_mask_of(output_mask));
    }>(m, "conv_transpose2d_backward");
}

}  // namespace stableops
