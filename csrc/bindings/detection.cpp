#include "detection.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "number.h"

namespace stableops {

FloatArray as_boxes(const py::object& x, const char* name, int columns) {
    FloatArray boxes = as_float_array(x, name);
    if (boxes.ndim() != 2 || boxes.shape()[1] != columns)
        throw py::value_error(std::string(name) + " has shape " + shape_text(boxes) +
                              "; it must be (N, " + std::to_string(columns) + ")");
    if (boxes.shape()[0] > std::numeric_limits<std::int32_t>::max())
        throw py::value_error(std::string(name) + " has " + std::to_string(boxes.shape()[0]) +
                              " rows; at most 2147483647 are allowed");
    return boxes;
}

void check_length(const Array& x, const char* name, const FloatArray& boxes) {
    if (x.ndim() == 1 && x.shape()[0] == boxes.shape()[0]) return;
    throw py::value_error(std::string(name) + " has shape " + shape_text(x) +
                          " and boxes has shape " + shape_text(boxes) + "; " + name + " must be (" +
                          std::to_string(boxes.shape()[0]) + ",)");
}

FloatArray as_scores(const py::object& x, const FloatArray& boxes) {
    FloatArray scores = as_float_array(x, "scores");
    check_length(scores, "scores", boxes);
    return scores;
}

Array as_class_ids(const py::object& x, const FloatArray& boxes) {
    Array ids = as_int64_array(x, "idxs", true);
    check_length(ids, "idxs", boxes);
    return ids;
}

std::ptrdiff_t output_limit(const py::object& x, std::ptrdiff_t none) {
    if (x.is_none()) return none;
    if (!PyIndex_Check(x.ptr()) || PyBool_Check(x.ptr()))
        throw py::type_error("max_output=" + text_of(x) + " is not allowed; an int or None is");
    const Py_ssize_t limit = whole_number(x);
    if (limit < 0)
        throw py::value_error("max_output=" + text_of(x) +
                              " is not allowed; it must not be negative");
    return std::min<std::ptrdiff_t>(limit, none);
}

ScoreCut score_cut(const py::object& x) {
    if (x.is_none()) return {true, 0.0};
    const double minimum = number(x, "score_threshold");
    if (std::isnan(minimum))
        throw py::value_error("score_threshold=nan is not allowed; a number or None is");
    return {false, minimum};
}

Array int64_vector(const std::int64_t* values, std::ptrdiff_t count) {
    const npy_intp shape[] = {count};
    Array result = new_int64_array(1, shape);
    std::copy(values, values + count, result.data<std::int64_t>());
    return result;
}

}  // namespace stableops
