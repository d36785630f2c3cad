#include <algorithm>
#include <limits>
#include <optional>

#include "../kernels.h"
#include "families.h"
#include "function.h"
#include "settings.h"

namespace stableops {
namespace {

// Sums of sizes that a caller may choose freely do not overflow here.
using Wide = __int128;

// Windows and paddings from here on serve no image, and their arithmetic stays far from overflow.
constexpr std::ptrdiff_t size_limit = std::numeric_limits<std::int32_t>::max();

struct Pair {
    std::ptrdiff_t h, w;
};

std::string text(const char* name, std::ptrdiff_t value) {
    return std::string(name) + "=" + std::to_string(value);
}

bool is_sequence(const py::object& value) {
    return py::isinstance<py::tuple>(value) || py::isinstance<py::list>(value);
}

// An int, or a tuple or list of one or two, each at least `least`.
Pair pair(const py::object& value, const char* name, std::ptrdiff_t least) {
    const auto part = [&](const py::handle& item) {
        return integer_in(item, value, name, least, no_most, "an int or a pair of ints is");
    };
    if (!is_sequence(value)) {
        const std::ptrdiff_t both = part(value);
        return {both, both};
    }
    const py::sequence items = value;
    if (items.size() != 1 && items.size() != 2)
        throw py::value_error(std::string(name) + "=" + text_of(value) + " has " +
                              std::to_string(items.size()) + " entries; one or two are allowed");
    return {part(items[0]), part(items[items.size() - 1])};
}

// An (N, C, H, W) or (C, H, W) array with its strides.
struct Images {
    std::ptrdiff_t n, c, h, w;
    ImageStrides stride;
    bool channels_last;
};

void check_ndim(int ndim, const char* name, const std::string& shape) {
    if (ndim != 3 && ndim != 4)
        throw py::value_error(std::string(name) + " has shape " + shape + " with " +
                              std::to_string(ndim) +
                              " dimensions; (N, C, H, W) or (C, H, W) is allowed");
}

Images images(const Array& x, const char* name) {
    check_ndim(x.ndim(), name, shape_text(x));
    const int c = x.ndim() - 3;
    const npy_intp* shape = x.shape();
    Images result = {c == 1 ? shape[0] : 1,
                     shape[c],
                     shape[c + 1],
                     shape[c + 2],
                     {c == 1 ? x.stride(0) : 0, x.stride(c), x.stride(c + 1), x.stride(c + 2)},
                     false};
    const auto size = [](std::ptrdiff_t stride) { return stride < 0 ? -stride : stride; };
    const std::ptrdiff_t row = size(result.stride.h);
    const std::ptrdiff_t pixel = size(result.stride.w);
    result.channels_last = !PyArray_IS_C_CONTIGUOUS(x.get()) && result.c > 1 &&
                           result.stride.c == 1 && (result.w == 1 || pixel >= result.c) &&
                           (result.h == 1 || (row >= result.c && (result.w == 1 || row >= pixel)));
    return result;
}

void check_image(const Images& x, const char* name, const Array& array) {
    if (x.h == 0 || x.w == 0)
        throw py::value_error(std::string(name) + " has shape " + shape_text(array) +
                              "; images without elements cannot be pooled");
}

// Where results go: (N, C, H, W) in shape, in the memory order that the kernels write.
struct PooledArray {
    py::object object;  // to return
    py::object memory;
};
template <class New>
PooledArray pooled_array(bool batched, const Pool2dShape& shape, std::ptrdiff_t h, std::ptrdiff_t w,
                         New make) {
    npy_intp planes[] = {shape.batch, shape.channels, h, w};
    npy_intp pixels[] = {shape.batch, h, w, shape.channels};
    const int skip = batched ? 0 : 1;
    py::object memory = make(4 - skip, (shape.channels_last ? pixels : planes) + skip);
    if (!shape.channels_last) return {memory, memory};
    npy_intp order[] = {0, 3, 1, 2};
    npy_intp order_unbatched[] = {2, 0, 1};
    PyArray_Dims axes = {batched ? order : order_unbatched, 4 - skip};
    PyObject* view = PyArray_Transpose(reinterpret_cast<PyArrayObject*>(memory.ptr()), &axes);
    if (view == nullptr) throw py::error_already_set();
    return {py::reinterpret_steal<py::object>(view), memory};
}
PooledArray pooled_array(bool batched, const Pool2dShape& shape, std::ptrdiff_t h, std::ptrdiff_t w,
                         Dtype dtype) {
    return pooled_array(batched, shape, h, w, [&](int ndim, const npy_intp* sizes) {
        return new_array(dtype, ndim, sizes).owner;
    });
}
PooledArray pooled_int64_array(bool batched, const Pool2dShape& shape) {
    return pooled_array(
        batched, shape, shape.out_h, shape.out_w,
        [](int ndim, const npy_intp* sizes) { return new_int64_array(ndim, sizes).owner; });
}
template <class T>
T* memory_of(const PooledArray& array) {
    return static_cast<T*>(PyArray_DATA(reinterpret_cast<PyArrayObject*>(array.memory.ptr())));
}

struct WindowArguments {
    Pair kernel, stride, padding, dilation;
    bool ceil_mode;
};

WindowArguments windows(const py::object& kernel_size, const py::object& stride,
                        const py::object& padding, const py::object& dilation, bool ceil_mode) {
    WindowArguments result = {};
    result.kernel = pair(kernel_size, "kernel_size", 1);
    const bool same = stride.is_none() || (is_sequence(stride) && py::len(stride) == 0);
    result.stride = same ? result.kernel : pair(stride, "stride", 1);
    result.padding = pair(padding, "padding", 0);
    result.dilation = pair(dilation, "dilation", 1);
    result.ceil_mode = ceil_mode;
    return result;
}

// How many windows an axis has. The last one must start inside the image or the padding before it,
// and each must have a tap inside.
std::ptrdiff_t window_count(const char* axis, std::ptrdiff_t size, std::ptrdiff_t kernel,
                            std::ptrdiff_t stride, std::ptrdiff_t padding, std::ptrdiff_t dilation,
                            bool ceil_mode) {
    const Wide extent = Wide{kernel - 1} * dilation + 1;
    const std::string where = std::string(" along ") + axis;
    if (extent > size_limit)
        throw py::value_error(text("kernel_size", kernel) + " with " + text("dilation", dilation) +
                              where + " is too large; " + std::to_string(size_limit) +
                              " is the longest window allowed");
    if (padding > extent / 2)
        throw py::value_error(text("padding", padding) + where +
                              " is not allowed; at most half of the window of " +
                              std::to_string(static_cast<std::ptrdiff_t>(extent)) +
                              " is: " + std::to_string(static_cast<std::ptrdiff_t>(extent / 2)));
    const Wide room = Wide{size} + 2 * padding - extent + (ceil_mode ? stride - 1 : 0);
    if (room < 0)
        throw py::value_error("a window of " + std::to_string(static_cast<std::ptrdiff_t>(extent)) +
                              where + " (" + text("kernel_size", kernel) + ", " +
                              text("dilation", dilation) + ") does not fit the padded image of " +
                              std::to_string(size) + " + 2 * " + std::to_string(padding));
    std::ptrdiff_t count = static_cast<std::ptrdiff_t>(room / stride) + 1;
    if (ceil_mode && Wide{count - 1} * stride >= Wide{size} + padding) --count;
    for (std::ptrdiff_t start = -padding, i = 0; dilation > size && start < 0 && i < count;
         start += stride, ++i)
        if ((start % dilation + dilation) % dilation >= size)
            throw py::value_error("window " + std::to_string(i) + where +
                                  " has no element of the image between its taps (" +
                                  text("padding", padding) + ", " + text("dilation", dilation) +
                                  ", image " + std::to_string(size) + ")");
    return count;
}

Pool2dShape pool_shape(const Images& x, const WindowArguments& a) {
    return {
        .batch = x.n,
        .channels = x.c,
        .height = x.h,
        .width = x.w,
        .out_h =
            window_count("H", x.h, a.kernel.h, a.stride.h, a.padding.h, a.dilation.h, a.ceil_mode),
        .out_w =
            window_count("W", x.w, a.kernel.w, a.stride.w, a.padding.w, a.dilation.w, a.ceil_mode),
        .kernel_h = a.kernel.h,
        .kernel_w = a.kernel.w,
        // Longer steps mean nothing, and would overflow in the rest of a register.
        .stride_h = std::min(a.stride.h, x.h + 2 * a.padding.h + 1),
        .stride_w = std::min(a.stride.w, x.w + 2 * a.padding.w + 1),
        .pad_h = a.padding.h,
        .pad_w = a.padding.w,
        .dilation_h = a.dilation.h,
        .dilation_w = a.dilation.w,
        .channels_last = x.channels_last,
    };
}

std::ptrdiff_t volume(const Pool2dShape& shape) {
    return shape.batch * shape.channels * shape.out_h * shape.out_w;
}

// Integers keep their dtype; they are pooled as int64.
bool is_integer_array(const py::object& x) {
    if (!PyArray_CheckExact(x.ptr())) return false;
    const int type = PyArray_TYPE(reinterpret_cast<PyArrayObject*>(x.ptr()));
    if (type == NPY_ULONG || type == NPY_ULONGLONG)
        throw py::type_error("input has dtype " + text_of(x.attr("dtype")) +
                             "; allowed are float64, float32, float16, bfloat16, bool and "
                             "integers up to int64");
    return PyTypeNum_ISINTEGER(type) || PyTypeNum_ISBOOL(type);
}

py::object max_pool2d(const py::object& input, const py::object& kernel_size,
                      const py::object& stride, const py::object& padding,
                      const py::object& dilation, bool ceil_mode, bool return_indices) {
    const bool integers = is_integer_array(input);
    const Array as_integers = integers ? as_int64_array(input, "input", true) : Array{};
    const FloatArray as_floats = integers ? FloatArray{} : as_float_array(input, "input");
    const Array& x = integers ? as_integers : static_cast<const Array&>(as_floats);
    const Images in = images(x, "input");
    check_image(in, "input", x);
    const Pool2dShape shape =
        pool_shape(in, windows(kernel_size, stride, padding, dilation, ceil_mode));
    const Wide reach = Wide{shape.kernel_h - 1} * shape.dilation_h * shape.width +
                       Wide{shape.kernel_w - 1} * shape.dilation_w;
    if (return_indices && reach > size_limit)
        throw py::value_error("kernel_size=" + text_of(kernel_size) + " on an image of width " +
                              std::to_string(shape.width) +
                              " is too large for return_indices=True; a window may reach over at "
                              "most " +
                              std::to_string(size_limit) + " elements of the plane");
    const bool batched = x.ndim() == 4;
    const PooledArray y =
        integers ? pooled_int64_array(batched, shape)
                 : pooled_array(batched, shape, shape.out_h, shape.out_w, as_floats.dtype);
    PooledArray indices;
    std::int64_t* index = nullptr;
    if (return_indices) {
        indices = pooled_int64_array(batched, shape);
        index = memory_of<std::int64_t>(indices);
    }
    if (volume(shape) > 0) {
        const auto call = [&]<class T>(T, auto kernel) {
            run_kernel(x.size(), [&] {
                kernel(shape, memory_of<T>(y), index, x.data<const T>(), in.stride);
            });
        };
        if (integers) {
            call(std::int64_t{}, active_kernels().integer_pool2d.max_pool2d);
        } else {
            with_dtype(as_floats.dtype,
                       [&]<class T>(T) { call(T{}, active_kernels().pool2d.of<T>().max_pool2d); });
        }
    }
    const py::object result = integers ? y.object.attr("astype")(input.attr("dtype")) : y.object;
    if (return_indices) return py::make_tuple(result, indices.object);
    return result;
}

// The `input_shape` of a backward function, whose leading sizes are those of grad_output.
Images image_shape(const py::object& input_shape, const Images& grad, const Array& grad_array) {
    if (!is_sequence(input_shape))
        throw py::type_error("input_shape=" + text_of(input_shape) +
                             " is not allowed; a tuple of ints is");
    const py::sequence items = input_shape;
    const int ndim = static_cast<int>(items.size());
    check_ndim(ndim, "input_shape", text_of(input_shape));
    std::ptrdiff_t size[4] = {1, 0, 0, 0};
    for (int d = 0; d < ndim; ++d)
        size[4 - ndim + d] =
            integer_in(items[d], input_shape, "input_shape", 0, no_most, "a tuple of ints is");
    if (ndim != grad_array.ndim() || size[0] != grad.n || size[1] != grad.c)
        throw py::value_error("input_shape=" + text_of(input_shape) +
                              " does not belong to grad_output of shape " + shape_text(grad_array) +
                              "; all but H and W must agree");
    std::ptrdiff_t plane;
    if (__builtin_mul_overflow(size[2], size[3], &plane))
        throw py::value_error("input_shape=" + text_of(input_shape) + " is too large");
    return {size[0], size[1], size[2], size[3], {}, grad.channels_last};
}

void check_grad_shape(const Array& grad, const Images& g, const Pool2dShape& shape) {
    if (g.h != shape.out_h || g.w != shape.out_w)
        throw py::value_error("grad_output has shape " + shape_text(grad) +
                              "; with these arguments H and W must be " +
                              std::to_string(shape.out_h) + " and " + std::to_string(shape.out_w));
}

std::string position_text(std::ptrdiff_t flat, const Array& array) {
    npy_intp position[4] = {};
    for (int d = array.ndim() - 1; d >= 0; --d) {
        position[d] = flat % array.shape()[d];
        flat /= array.shape()[d];
    }
    return shape_text(array.ndim(), position);
}

py::object value_at(const Array& array, std::ptrdiff_t flat) {
    return array.owner.attr("flat").attr("__getitem__")(flat);
}

py::object max_pool2d_backward(const py::object& grad_output, const py::object& indices_object,
                               const py::object& input_shape) {
    const FloatArray grad = as_float_array(grad_output, "grad_output");
    const Array any_indices = as_array(indices_object, "indices");
    const Array indices = as_int64_array(any_indices.owner, "indices");
    const Images g = images(grad, "grad_output");
    check_same_shape(grad, "grad_output", indices, "indices");
    const Images x = image_shape(input_shape, g, grad);
    const Pool2dShape shape = {
        .batch = x.n,
        .channels = x.c,
        .height = x.h,
        .width = x.w,
        .out_h = g.h,
        .out_w = g.w,
        .kernel_h = 1,
        .kernel_w = 1,
        .stride_h = 1,
        .stride_w = 1,
        .pad_h = 0,
        .pad_w = 0,
        .dilation_h = 1,
        .dilation_w = 1,
        .channels_last = g.channels_last,
    };
    const PooledArray grad_x = pooled_array(grad.ndim() == 4, shape, x.h, x.w, grad.dtype);
    std::ptrdiff_t outside = -1;
    if (x.n * x.c > 0)
        with_dtype(grad.dtype, [&]<class T>(T) {
            const auto kernel = active_kernels().pool2d.of<T>().max_pool2d_backward;
            run_kernel(grad.size() + x.n * x.c * x.h * x.w, [&] {
                outside = kernel(shape, memory_of<T>(grad_x), grad.data<const T>(), g.stride,
                                 indices.data<const std::int64_t>(), images(indices, "").stride);
            });
        });
    if (outside >= 0)
        throw py::index_error("indices" + position_text(outside, indices) + " is " +
                              text_of(value_at(any_indices, outside)) + "; a plane of " +
                              std::to_string(x.h) + " x " + std::to_string(x.w) +
                              " has the positions 0 to " + std::to_string(x.h * x.w - 1));
    return grad_x.object;
}

py::object average(const FloatArray& x, const Images& in, const Pool2dShape& shape,
                   const AvgPool2dRule& rule) {
    const PooledArray y = pooled_array(x.ndim() == 4, shape, shape.out_h, shape.out_w, x.dtype);
    if (volume(shape) > 0)
        with_dtype(x.dtype, [&]<class T>(T) {
            const auto kernel = active_kernels().pool2d.of<T>().avg_pool2d;
            run_kernel(x.size(),
                       [&] { kernel(shape, rule, memory_of<T>(y), x.data<const T>(), in.stride); });
        });
    return y.object;
}

py::object average_backward(const FloatArray& grad, const Images& g, const Pool2dShape& shape,
                            const AvgPool2dRule& rule) {
    check_grad_shape(grad, g, shape);
    const PooledArray grad_x =
        pooled_array(grad.ndim() == 4, shape, shape.height, shape.width, grad.dtype);
    if (volume(shape) > 0) {
        with_dtype(grad.dtype, [&]<class T>(T) {
            const auto kernel = active_kernels().pool2d.of<T>().avg_pool2d_backward;
            run_kernel(shape.batch * shape.channels * shape.height * shape.width, [&] {
                kernel(shape, rule, memory_of<T>(grad_x), grad.data<const T>(), g.stride);
            });
        });
    } else {
        PyArray_FILLWBYTE(reinterpret_cast<PyArrayObject*>(grad_x.memory.ptr()), 0);
    }
    return grad_x.object;
}

AvgPool2dRule average_rule(bool count_include_pad, const py::object& divisor_override) {
    AvgPool2dRule rule = {.adaptive = false, .count_include_pad = count_include_pad, .divisor = 0};
    if (divisor_override.is_none()) return rule;
    rule.divisor =
        integer_in(divisor_override, divisor_override, "divisor_override", no_least, no_most);
    if (rule.divisor == 0)
        throw py::value_error("divisor_override=0 is not allowed; any other int or None is");
    return rule;
}

py::object avg_pool2d(const py::object& input, const py::object& kernel_size,
                      const py::object& stride, const py::object& padding, bool ceil_mode,
                      bool count_include_pad, const py::object& divisor_override) {
    const FloatArray x = as_float_array(input, "input");
    const Images in = images(x, "input");
    check_image(in, "input", x);
    const Pool2dShape shape =
        pool_shape(in, windows(kernel_size, stride, padding, py::int_(1), ceil_mode));
    return average(x, in, shape, average_rule(count_include_pad, divisor_override));
}

py::object avg_pool2d_backward(const py::object& grad_output, const py::object& input_shape,
                               const py::object& kernel_size, const py::object& stride,
                               const py::object& padding, bool ceil_mode, bool count_include_pad,
                               const py::object& divisor_override) {
    const FloatArray grad = as_float_array(grad_output, "grad_output");
    const Images g = images(grad, "grad_output");
    const Images x = image_shape(input_shape, g, grad);
    const Pool2dShape shape =
        pool_shape(x, windows(kernel_size, stride, padding, py::int_(1), ceil_mode));
    return average_backward(grad, g, shape, average_rule(count_include_pad, divisor_override));
}

Pool2dShape adaptive_shape(const Images& x, std::ptrdiff_t out_h, std::ptrdiff_t out_w) {
    return {
        .batch = x.n,
        .channels = x.c,
        .height = x.h,
        .width = x.w,
        .out_h = out_h,
        .out_w = out_w,
        .kernel_h = 1,
        .kernel_w = 1,
        .stride_h = 1,
        .stride_w = 1,
        .pad_h = 0,
        .pad_w = 0,
        .dilation_h = 1,
        .dilation_w = 1,
        .channels_last = x.channels_last,
    };
}

constexpr AvgPool2dRule adaptive_rule = {.adaptive = true, .count_include_pad = true, .divisor = 0};

py::object adaptive_avg_pool2d(const py::object& input, const py::object& output_size) {
    const FloatArray x = as_float_array(input, "input");
    const Images in = images(x, "input");
    check_image(in, "input", x);
    const auto entry = [&](const py::object& value, std::ptrdiff_t size) {
        return value.is_none() ? size
                               : integer_in(value, output_size, "output_size", 0, no_most,
                                            "an int, a pair or None is");
    };
    Pair out;
    if (is_sequence(output_size)) {
        const py::sequence items = output_size;
        if (items.size() != 2)
            throw py::value_error("output_size=" + text_of(output_size) + " has " +
                                  std::to_string(items.size()) + " entries; two are allowed");
        out = {entry(items[0], in.h), entry(items[1], in.w)};
    } else {
        out = {entry(output_size, in.h), entry(output_size, in.w)};
    }
    return average(x, in, adaptive_shape(in, out.h, out.w), adaptive_rule);
}

py::object adaptive_avg_pool2d_backward(const py::object& grad_output,
                                        const py::object& input_shape) {
    const FloatArray grad = as_float_array(grad_output, "grad_output");
    const Images g = images(grad, "grad_output");
    const Images x = image_shape(input_shape, g, grad);
    if (x.h == 0 || x.w == 0)
        throw py::value_error("input_shape=" + text_of(input_shape) +
                              " is not allowed; images without elements cannot be pooled");
    return average_backward(grad, g, adaptive_shape(x, g.h, g.w), adaptive_rule);
}

}  // namespace

void bind_pool2d(py::module_& m) {
    def<max_pool2d>(m, "max_pool2d");
    def<max_pool2d_backward>(m, "max_pool2d_backward");
    def<avg_pool2d>(m, "avg_pool2d");
    def<avg_pool2d_backward>(m, "avg_pool2d_backward");
    def<adaptive_avg_pool2d>(m, "adaptive_avg_pool2d");
    def<adaptive_avg_pool2d_backward>(m, "adaptive_avg_pool2d_backward");
}

}  // namespace stableops
