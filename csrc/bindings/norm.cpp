#include <cmath>

#include "../kernels.h"
#include "families.h"
#include "function.h"
#include "output_mask.h"
#include "row_arrays.h"
#include "settings.h"

namespace stableops {
namespace {

double not_negative(const py::object& value, const char* name) {
    const double result = number(value, name);
    if (!(result >= 0))
        throw py::value_error(std::string(name) + "=" + repr_of(value) +
                              " is not allowed; it must be 0 or more");
    return result;
}

std::ptrdiff_t positive_int(const py::object& value, const char* name) {
    return integer_in(value, value, name, 1, no_most);
}

// An axis of an array, or a part of one: `step` elements of it apart. No axis has index -1.
struct AxisPart {
    int axis = -1;
    std::ptrdiff_t size = 1, step = 1;

    std::ptrdiff_t stride(const Array& a) const {
        return axis < 0 ? 0 : step * PyArray_STRIDE(a.get(), axis);
    }
};

// Which axes make the rows and columns of norm_plan.h.
struct Roles {
    std::vector<AxisPart> samples, length;
    AxisPart group, plane;
};

struct Operand {
    const FloatArray* array;
    NormOperand* operand;
};

// Neighbours that all arrays traverse as one are one.
void merge_axes(const std::vector<AxisPart>& axes, std::initializer_list<Operand> operands,
                int& ndim, std::ptrdiff_t* size, std::ptrdiff_t (NormOperand::*stride)[max_dims]) {
    ndim = 0;
    for (const AxisPart& axis : axes) {
        if (axis.size == 1) continue;
        bool merges = ndim > 0;
        for (const Operand& o : operands)
            merges = merges && (o.operand->*stride)[ndim - 1] == axis.size * axis.stride(*o.array);
        if (!merges) size[ndim++] = 1;
        size[ndim - 1] *= axis.size;
        for (const Operand& o : operands) (o.operand->*stride)[ndim - 1] = axis.stride(*o.array);
    }
    if (ndim > 0) return;
    ndim = 1;
    size[0] = 1;
    for (const Operand& o : operands) (o.operand->*stride)[0] = 0;
}

NormShape plan_norm(const Roles& roles, std::initializer_list<Operand> operands) {
    NormShape shape;
    for (const Operand& o : operands) {
        o.operand->data = static_cast<char*>(PyArray_DATA(o.array->get()));
        o.operand->type = element_of(o.array->dtype);
        o.operand->group_stride = roles.group.stride(*o.array);
        o.operand->plane_stride = roles.plane.stride(*o.array);
    }
    merge_axes(roles.samples, operands, shape.sample_ndim, shape.sample_size,
               &NormOperand::sample_stride);
    merge_axes(roles.length, operands, shape.length_ndim, shape.length_size,
               &NormOperand::length_stride);
    shape.groups = roles.group.size;
    shape.planes = roles.plane.size;
    shape.planes_are_channels = roles.plane.axis == 1;
    shape.samples = shape.length = 1;
    for (int d = 0; d < shape.sample_ndim; ++d) shape.samples *= shape.sample_size[d];
    for (int d = 0; d < shape.length_ndim; ++d) shape.length *= shape.length_size[d];
    return shape;
}

std::vector<AxisPart> axes_from(const Array& x, int first, int last) {
    std::vector<AxisPart> axes;
    for (int d = first; d < last; ++d) axes.push_back({d, x.shape()[d], 1});
    return axes;
}

std::ptrdiff_t product(const std::vector<AxisPart>& axes) {
    std::ptrdiff_t result = 1;
    for (const AxisPart& axis : axes) result *= axis.size;
    return result;
}

void check_channels(const Array& x) {
    if (x.ndim() < 2)
        throw py::value_error("input has shape " + shape_text(x) +
                              "; it must have at least two dimensions, (N, C, ...)");
}

// Channel by channel.
Roles batch_roles(const Array& x) {
    Roles roles;
    roles.group = {1, x.shape()[1], 1};
    roles.length = axes_from(x, 2, x.ndim());
    if (product(roles.length) == 1) {
        roles.length = {{0, x.shape()[0], 1}};
    } else {
        roles.plane = {0, x.shape()[0], 1};
    }
    return roles;
}

Roles group_roles(const Array& x, std::ptrdiff_t groups) {
    Roles roles;
    const std::ptrdiff_t each = x.shape()[1] / groups;
    roles.samples = axes_from(x, 0, 1);
    roles.group = {1, groups, each};
    roles.length = axes_from(x, 2, x.ndim());
    if (product(roles.length) == 1) {
        roles.length = {{1, each, 1}};
    } else {
        roles.plane = {1, each, 1};
    }
    return roles;
}

Roles layer_roles(const Array& x, int normalized) {
    Roles roles;
    roles.samples = axes_from(x, 0, x.ndim() - normalized);
    roles.length = axes_from(x, x.ndim() - normalized, x.ndim());
    return roles;
}

// Registers that begin before the end of an array may reach this far behind it.
constexpr std::size_t padding = 16;

std::vector<double> doubles(const FloatArray& array) {
    FloatArray wide = array;
    cast_to(wide, Dtype::float64);
    PyObject* packed = PyArray_FROMANY(wide.owner.ptr(), NPY_DOUBLE, 0, 0, NPY_ARRAY_CARRAY_RO);
    if (packed == nullptr) throw py::error_already_set();
    wide.owner = py::reinterpret_steal<py::object>(packed);
    std::vector<double> values(wide.data<double>(), wide.data<double>() + wide.size());
    values.resize(values.size() + padding);
    return values;
}

// One number a channel (or of the given shape), or None.
struct Parameter {
    FloatArray array;
    std::vector<double> values;
    bool given = false;

    Parameter(const py::object& value, const char* name, int ndim, const npy_intp* shape) {
        if (value.is_none()) return;
        given = true;
        array = as_float_array(value, name);
        if (array.ndim() != ndim || !std::equal(shape, shape + ndim, array.shape()))
            throw py::value_error(std::string(name) + " has shape " + shape_text(array) +
                                  "; it must be " + shape_text(ndim, shape));
        values = doubles(array);
    }
    const double* data() const { return given ? values.data() : nullptr; }
};

Dtype common_dtype(std::initializer_list<const FloatArray*> arrays,
                   std::initializer_list<const Parameter*> parameters) {
    std::vector<const FloatArray*> all(arrays);
    for (const Parameter* p : parameters)
        if (p->given) all.push_back(&p->array);
    return promoted(all);
}

FloatArray float64_array(int ndim, const npy_intp* shape) {
    return new_array(Dtype::float64, ndim, shape);
}

py::object returned(const FloatArray& a) { return a.owner; }

// y, and the statistics that were found.
struct Normalized {
    FloatArray y, mean, rstd, variance;
};

Normalized normalize(const FloatArray& x, const Roles& roles, NormAffine affine, double eps,
                     int stats_ndim, const npy_intp* stats_shape) {
    Normalized result = {
        new_array(x.dtype, x.ndim(), x.shape(), &x), float64_array(stats_ndim, stats_shape),
        float64_array(stats_ndim, stats_shape), float64_array(stats_ndim, stats_shape)};
    if (x.size() == 0) {
        for (const FloatArray* a : {&result.mean, &result.rstd, &result.variance})
            std::fill_n(a->data<double>(), a->size(), std::nan(""));
        return result;
    }
    NormOperand x_rows, y_rows;
    const NormShape shape = plan_norm(roles, {{&x, &x_rows}, {&result.y, &y_rows}});
    const NormKernels& kernels = kernels_for(active_kernels().norm, x.dtype);
    run_kernel(x.size(), [&] {
        kernels.normalize(shape, y_rows, x_rows, affine, eps, result.mean.data<double>(),
                          result.rstd.data<double>(), result.variance.data<double>());
    });
    return result;
}

NormAffine channel_affine(const Parameter& weight, const Parameter& bias, std::ptrdiff_t count) {
    return {weight.data(), bias.data(), 1, 0, 0, count};
}
NormAffine group_affine(const Roles& roles, const Parameter& weight, const Parameter& bias) {
    const bool by_position = roles.plane.axis < 0;
    const std::ptrdiff_t each = by_position ? product(roles.length) : roles.plane.size;
    return {weight.data(),       bias.data(),         each,
            by_position ? 0 : 1, by_position ? 1 : 0, each * roles.group.size};
}

// An array of the caller's that training writes to.
FloatArray running_array(const py::object& value, const char* name, std::ptrdiff_t channels,
                         bool written) {
    const FloatArray array = as_float_array(value, name);
    const npy_intp shape[] = {channels};
    if (array.ndim() != 1 || array.shape()[0] != channels)
        throw py::value_error(std::string(name) + " has shape " + shape_text(array) +
                              "; it must be " + shape_text(1, shape));
    if (!written) return array;
    if (!PyArray_Check(value.ptr()) || array.was_integral)
        throw py::type_error(std::string(name) +
                             " is updated in place; it must be a numpy array of floats");
    if (!PyArray_ISWRITEABLE(reinterpret_cast<PyArrayObject*>(value.ptr())))
        throw py::value_error(std::string(name) + " is read-only; it must be writeable");
    return array;
}

// Whether NumPy would warn of overflow when it rounds these sums to dtype: infinity is their value
// there.
bool overflows(const FloatArray& sums, Dtype dtype) {
    if (dtype == Dtype::float64) return false;
    const double largest = dtype == Dtype::float16 ? 65504 : 0x1.fep127;
    for (std::ptrdiff_t i = 0; i < sums.size(); ++i) {
        const double size = std::abs(sums.data<double>()[i]);
        if (size > largest && !std::isinf(size)) return true;
    }
    return false;
}

// A float64 array of sums, rounded.
py::object rounded(FloatArray sums, Dtype dtype) {
    if (overflows(sums, dtype)) {
        const py::object quiet =
            py::module_::import("numpy").attr("errstate")(py::arg("over") = "ignore");
        quiet.attr("__enter__")();
        cast_to(sums, dtype);
        quiet.attr("__exit__")(py::none(), py::none(), py::none());
    } else {
        cast_to(sums, dtype);
    }
    return sums.owner;
}

void update_running(const py::object& target, const FloatArray& running,
                    const FloatArray& statistic, double factor, double momentum) {
    FloatArray next = float64_array(1, running.shape());
    const std::vector<double> old = doubles(running);
    std::copy_n(old.data(), running.size(), next.data<double>());
    active_kernels().norm.float64.update_running(next.size(), next.data<double>(),
                                                 statistic.data<double>(), factor, momentum);
    const py::object result = rounded(next, running.dtype);
    if (PyArray_CopyInto(reinterpret_cast<PyArrayObject*>(target.ptr()),
                         reinterpret_cast<PyArrayObject*>(result.ptr())) < 0)
        throw py::error_already_set();
}

// rectify: the result, with training=False. For networks that are compiled.
py::object batch_norm(const py::object& input, const py::object& running_mean,
                      const py::object& running_var, const py::object& weight_object,
                      const py::object& bias_object, bool training,
                      const py::object& momentum_object, const py::object& eps_object,
                      bool return_stats, bool rectify) {
    FloatArray x = as_float_array(input, "input");
    check_channels(x);
    const npy_intp channels[] = {x.shape()[1]};
    const Parameter weight(weight_object, "weight", 1, channels);
    const Parameter bias(bias_object, "bias", 1, channels);
    const double eps = not_negative(eps_object, "eps");
    const double momentum = number(momentum_object, "momentum");
    const bool tracks = !running_mean.is_none();
    if (tracks == running_var.is_none())
        throw py::value_error("running_mean and running_var must both be given, or both be None");
    if (!training && !tracks)
        throw py::value_error("running_mean=None is not allowed with training=False");
    FloatArray mean, variance;
    if (tracks) {
        mean = running_array(running_mean, "running_mean", channels[0], training);
        variance = running_array(running_var, "running_var", channels[0], training);
    }
    const std::ptrdiff_t values = channels[0] == 0 ? 0 : x.size() / channels[0];
    if (training && values == 1)
        throw py::value_error("input has shape " + shape_text(x) +
                              "; with training=True it must have more than one value per channel");
    cast_to(x, common_dtype({&x}, {&weight, &bias}));
    const Roles roles = batch_roles(x);
    NormAffine affine = channel_affine(weight, bias, channels[0]);
    if (training) {
        const Normalized result = normalize(x, roles, affine, eps, 1, channels);
        if (tracks && x.size() > 0) {
            const double n = static_cast<double>(values);
            update_running(running_mean, mean, result.mean, 1, momentum);
            update_running(running_var, variance, result.variance, n / (n - 1), momentum);
        }
        if (!return_stats) return returned(result.y);
        return py::make_tuple(returned(result.y), returned(result.mean), returned(result.rstd));
    }
    affine.rectify = rectify;
    const FloatArray y = new_array(x.dtype, x.ndim(), x.shape(), &x);
    const std::vector<double> means = doubles(mean), variances = doubles(variance);
    if (x.size() > 0) {
        NormOperand x_rows, y_rows;
        const NormShape shape = plan_norm(roles, {{&x, &x_rows}, {&y, &y_rows}});
        const NormKernels& kernels = kernels_for(active_kernels().norm, x.dtype);
        run_kernel(x.size(), [&] {
            kernels.transform(shape, y_rows, x_rows, affine, eps, means.data(), variances.data());
        });
    }
    if (!return_stats) return returned(y);
    const FloatArray saved = float64_array(1, channels), rstd = float64_array(1, channels);
    for (npy_intp c = 0; c < channels[0]; ++c) {
        saved.data<double>()[c] = means[static_cast<std::size_t>(c)];
        rstd.data<double>()[c] = 1 / std::sqrt(variances[static_cast<std::size_t>(c)] + eps);
    }
    return py::make_tuple(returned(y), returned(saved), returned(rstd));
}

// (y, mean, rstd), or y.
py::object with_statistics(const Normalized& result, bool return_stats) {
    if (!return_stats) return returned(result.y);
    return py::make_tuple(returned(result.y), returned(result.mean), returned(result.rstd));
}

std::ptrdiff_t group_count(const py::object& num_groups, const Array& x) {
    check_channels(x);
    const std::ptrdiff_t groups = positive_int(num_groups, "num_groups");
    if (x.shape()[1] % groups != 0)
        throw py::value_error("num_groups=" + std::to_string(groups) +
                              " is not allowed; it must divide the " +
                              std::to_string(x.shape()[1]) + " channels of input");
    return groups;
}

py::object group_norm(const py::object& input, const py::object& num_groups,
                      const py::object& weight_object, const py::object& bias_object,
                      const py::object& eps_object, bool return_stats) {
    FloatArray x = as_float_array(input, "input");
    const std::ptrdiff_t groups = group_count(num_groups, x);
    const Parameter weight(weight_object, "weight", 1, x.shape() + 1);
    const Parameter bias(bias_object, "bias", 1, x.shape() + 1);
    const double eps = not_negative(eps_object, "eps");
    cast_to(x, common_dtype({&x}, {&weight, &bias}));
    const Roles roles = group_roles(x, groups);
    const npy_intp stats[] = {x.shape()[0], groups};
    return with_statistics(normalize(x, roles, group_affine(roles, weight, bias), eps, 2, stats),
                           return_stats);
}

// How many axes normalized_shape has; they must be the last ones of x.
int normalized_axes_of(const py::object& value, const Array& x) {
    std::vector<npy_intp> sizes;
    if (PyTuple_Check(value.ptr()) || PyList_Check(value.ptr())) {
        for (const py::handle& item : value)
            sizes.push_back(
                positive_int(py::reinterpret_borrow<py::object>(item), "normalized_shape"));
    } else {
        sizes.push_back(positive_int(value, "normalized_shape"));
    }
    const int ndim = static_cast<int>(sizes.size());
    if (ndim == 0 || ndim > x.ndim() ||
        !std::equal(sizes.begin(), sizes.end(), x.shape() + x.ndim() - ndim))
        throw py::value_error("normalized_shape=" + text_of(value) +
                              " is not allowed; the last sizes of input, which has shape " +
                              shape_text(x) + ", are");
    return ndim;
}

py::object layer_norm(const py::object& input, const py::object& normalized_shape,
                      const py::object& weight_object, const py::object& bias_object,
                      const py::object& eps_object, bool return_stats) {
    FloatArray x = as_float_array(input, "input");
    const int ndim = normalized_axes_of(normalized_shape, x);
    const npy_intp* sizes = x.shape() + x.ndim() - ndim;
    const Parameter weight(weight_object, "weight", ndim, sizes);
    const Parameter bias(bias_object, "bias", ndim, sizes);
    const double eps = not_negative(eps_object, "eps");
    cast_to(x, common_dtype({&x}, {&weight, &bias}));
    const Roles roles = layer_roles(x, ndim);
    const NormAffine affine = {weight.data(), bias.data(), 0, 0, 1, product(roles.length)};
    return with_statistics(normalize(x, roles, affine, eps, x.ndim() - ndim, x.shape()),
                           return_stats);
}

// Statistics of the forward pass, as given to a backward function.
std::vector<double> statistics(const py::object& value, const char* name, int ndim,
                               const npy_intp* shape) {
    const FloatArray array = as_float_array(value, name);
    if (array.ndim() != ndim || !std::equal(shape, shape + ndim, array.shape()))
        throw py::value_error(std::string(name) + " has shape " + shape_text(array) +
                              "; it must be " + shape_text(ndim, shape));
    return doubles(array);
}

py::tuple backward(FloatArray grad, FloatArray x, const Parameter& weight, const Roles& roles,
                   const NormAffine& affine, const std::vector<double>& mean,
                   const std::vector<double>& rstd, bool constant, int weight_ndim,
                   const npy_intp* weight_shape, const std::array<bool, 3>& mask) {
    const Dtype dtype = common_dtype({&grad, &x}, {&weight});
    cast_to(grad, dtype);
    cast_to(x, dtype);
    FloatArray grad_x = {}, grad_weight = {}, grad_bias = {};
    const auto zeros = [&] {
        FloatArray sums = float64_array(weight_ndim, weight_shape);
        std::fill_n(sums.data<double>(), sums.size(), 0.0);
        return sums;
    };
    if (mask[0]) grad_x = new_array(dtype, x.ndim(), x.shape(), &x);
    if (mask[1]) grad_weight = zeros();
    if (mask[2]) grad_bias = zeros();
    if (x.size() > 0) {
        NormOperand x_rows, grad_rows, grad_x_rows;
        const NormShape shape =
            mask[0]
                ? plan_norm(roles, {{&x, &x_rows}, {&grad, &grad_rows}, {&grad_x, &grad_x_rows}})
                : plan_norm(roles, {{&x, &x_rows}, {&grad, &grad_rows}});
        const NormKernels& kernels = kernels_for(active_kernels().norm, dtype);
        run_kernel(x.size(), [&] {
            kernels.backward(shape, mask[0] ? &grad_x_rows : nullptr, grad_rows, x_rows, affine,
                             mean.data(), rstd.data(), constant,
                             mask[1] ? grad_weight.data<double>() : nullptr,
                             mask[2] ? grad_bias.data<double>() : nullptr);
        });
    }
    py::tuple result(3);
    result[0] = mask[0] ? grad_x.owner : py::none();
    result[1] = mask[1] ? rounded(grad_weight, dtype) : py::none();
    result[2] = mask[2] ? rounded(grad_bias, dtype) : py::none();
    return result;
}

py::tuple batch_norm_backward(const py::object& grad_object, const py::object& input,
                              const py::object& weight_object, const py::object& mean_object,
                              const py::object& rstd_object, bool training,
                              const py::object& output_mask) {
    const FloatArray grad = as_float_array(grad_object, "grad_output");
    const FloatArray x = as_float_array(input, "input");
    check_channels(x);
    check_same_shape(grad, "grad_output", x, "input");
    const npy_intp channels[] = {x.shape()[1]};
    const Parameter weight(weight_object, "weight", 1, channels);
    const std::vector<double> mean = statistics(mean_object, "mean", 1, channels);
    const std::vector<double> rstd = statistics(rstd_object, "rstd", 1, channels);
    const Parameter none(py::none(), "bias", 1, channels);
    return backward(grad, x, weight, batch_roles(x), channel_affine(weight, none, channels[0]),
                    mean, rstd, !training, 1, channels, output_mask_of(output_mask));
}

py::tuple group_norm_backward(const py::object& grad_object, const py::object& input,
                              const py::object& num_groups, const py::object& weight_object,
                              const py::object& mean_object, const py::object& rstd_object,
                              const py::object& output_mask) {
    const FloatArray grad = as_float_array(grad_object, "grad_output");
    const FloatArray x = as_float_array(input, "input");
    const std::ptrdiff_t groups = group_count(num_groups, x);
    check_same_shape(grad, "grad_output", x, "input");
    const npy_intp* channels = x.shape() + 1;
    const npy_intp stats[] = {x.shape()[0], groups};
    const Parameter weight(weight_object, "weight", 1, channels);
    const std::vector<double> mean = statistics(mean_object, "mean", 2, stats);
    const std::vector<double> rstd = statistics(rstd_object, "rstd", 2, stats);
    const Parameter none(py::none(), "bias", 1, channels);
    const Roles roles = group_roles(x, groups);
    return backward(grad, x, weight, roles, group_affine(roles, weight, none), mean, rstd, false, 1,
                    channels, output_mask_of(output_mask));
}

py::tuple layer_norm_backward(const py::object& grad_object, const py::object& input,
                              const py::object& normalized_shape, const py::object& weight_object,
                              const py::object& mean_object, const py::object& rstd_object,
                              const py::object& output_mask) {
    const FloatArray grad = as_float_array(grad_object, "grad_output");
    const FloatArray x = as_float_array(input, "input");
    check_same_shape(grad, "grad_output", x, "input");
    const int ndim = normalized_axes_of(normalized_shape, x);
    const npy_intp* sizes = x.shape() + x.ndim() - ndim;
    const Parameter weight(weight_object, "weight", ndim, sizes);
    const std::vector<double> mean = statistics(mean_object, "mean", x.ndim() - ndim, x.shape());
    const std::vector<double> rstd = statistics(rstd_object, "rstd", x.ndim() - ndim, x.shape());
    const Roles roles = layer_roles(x, ndim);
    const NormAffine affine = {weight.data(), nullptr, 0, 0, 1, product(roles.length)};
    return backward(grad, x, weight, roles, affine, mean, rstd, false, ndim, sizes,
                    output_mask_of(output_mask));
}

py::object prelu_grad_weight(const py::object& grad_object, const py::object& x_object,
                             const py::object& weight_object) {
    FloatArray grad = as_float_array(grad_object, "grad_output");
    FloatArray x = as_float_array(x_object, "x");
    const FloatArray weight = as_float_array(weight_object, "weight");
    check_same_shape(grad, "grad_output", x, "x");
    const FloatArray* const all[] = {&grad, &x, &weight};
    const Dtype dtype = promoted(all);
    cast_to(grad, dtype);
    cast_to(x, dtype);
    FloatArray sums = float64_array(weight.ndim(), weight.shape());
    std::fill_n(sums.data<double>(), sums.size(), 0.0);
    if (x.size() > 0) {
        Roles roles;
        if (weight.size() == 1) {
            roles.length = axes_from(x, 0, x.ndim());
        } else {
            roles = batch_roles(x);
        }
        NormOperand grad_rows, x_rows;
        const NormShape shape = plan_norm(roles, {{&x, &x_rows}, {&grad, &grad_rows}});
        const NormKernels& kernels = kernels_for(active_kernels().norm, dtype);
        run_kernel(x.size(),
                   [&] { kernels.negative_sums(shape, grad_rows, x_rows, sums.data<double>()); });
    }
    return rounded(sums, dtype);
}

LocalResponse response_rule(const py::object& size, const py::object& alpha, const py::object& beta,
                            const py::object& k) {
    return {positive_int(size, "size"), number(alpha, "alpha"), number(beta, "beta"),
            number(k, "k")};
}

Roles response_roles(const Array& x) {
    if (x.ndim() < 3)
        throw py::value_error("input has shape " + shape_text(x) +
                              "; it must have at least three dimensions, (N, C, ...)");
    Roles roles;
    roles.samples = axes_from(x, 0, 1);
    roles.group = {1, x.shape()[1], 1};
    roles.length = axes_from(x, 2, x.ndim());
    return roles;
}

py::object local_response_norm(const py::object& input, const py::object& size,
                               const py::object& alpha, const py::object& beta,
                               const py::object& k) {
    const FloatArray x = as_float_array(input, "input");
    const Roles roles = response_roles(x);
    const LocalResponse rule = response_rule(size, alpha, beta, k);
    const FloatArray y = new_array(x.dtype, x.ndim(), x.shape(), &x);
    if (x.size() > 0) {
        NormOperand x_rows, y_rows;
        const NormShape shape = plan_norm(roles, {{&x, &x_rows}, {&y, &y_rows}});
        const NormKernels& kernels = kernels_for(active_kernels().norm, x.dtype);
        run_kernel(x.size(), [&] { kernels.local_response_norm(shape, y_rows, x_rows, rule); });
    }
    return y.owner;
}

py::object local_response_norm_backward(const py::object& grad_object, const py::object& input,
                                        const py::object& size, const py::object& alpha,
                                        const py::object& beta, const py::object& k) {
    FloatArray grad = as_float_array(grad_object, "grad_output");
    FloatArray x = as_float_array(input, "input");
    check_same_shape(grad, "grad_output", x, "input");
    const FloatArray* const both[] = {&grad, &x};
    const Dtype dtype = promoted(both);
    cast_to(grad, dtype);
    cast_to(x, dtype);
    const Roles roles = response_roles(x);
    const LocalResponse rule = response_rule(size, alpha, beta, k);
    const FloatArray grad_x = new_array(dtype, x.ndim(), x.shape(), &x);
    if (x.size() > 0) {
        NormOperand x_rows, grad_rows, grad_x_rows;
        const NormShape shape =
            plan_norm(roles, {{&x, &x_rows}, {&grad, &grad_rows}, {&grad_x, &grad_x_rows}});
        const NormKernels& kernels = kernels_for(active_kernels().norm, dtype);
        run_kernel(x.size(), [&] {
            kernels.local_response_norm_backward(shape, grad_x_rows, grad_rows, x_rows, rule);
        });
    }
    return grad_x.owner;
}

}  // namespace

void bind_norm(py::module_& m) {
    def<batch_norm>(m, "batch_norm");
    def<batch_norm_backward>(m, "batch_norm_backward");
    def<group_norm>(m, "group_norm");
    def<group_norm_backward>(m, "group_norm_backward");
    def<layer_norm>(m, "layer_norm");
    def<layer_norm_backward>(m, "layer_norm_backward");
    def<local_response_norm>(m, "local_response_norm");
    def<local_response_norm_backward>(m, "local_response_norm_backward");
    def<prelu_grad_weight>(m, "prelu_grad_weight");
}

}  // namespace stableops
