#include <limits>

#include "../kernels.h"
#include "detection.h"
#include "families.h"
#include "function.h"

namespace stableops {
namespace {

py::object soft_nms(const py::object& boxes_object, const py::object& scores_object,
                    const py::object& iou_threshold, const py::object& method,
                    const py::object& sigma, const py::object& score_threshold) {
    constexpr double largest = std::numeric_limits<double>::max();
    const FloatArray boxes = as_boxes(boxes_object, "boxes");
    FloatArray scores = as_scores(scores_object, boxes);
    const Dtype score_dtype = scores.dtype;
    cast_to(scores, Dtype::float64);
    const SoftNmsOptions options = {
        .gaussian = choice<bool>(method, "method", {"linear", "gaussian"}),
        .iou_threshold = number_in(iou_threshold, "iou_threshold", 0.0, 1.0),
        .sigma = number_in(sigma, "sigma", std::numeric_limits<double>::min(), largest),
        .minimum = number_in(score_threshold, "score_threshold", 0.0, largest),
    };
    const std::ptrdiff_t n = boxes.shape()[0];
    const Block block(static_cast<std::size_t>(n) * (3 * sizeof(double) + sizeof(std::uint32_t)));
    std::int64_t* indices = block.as<std::int64_t>();
    double* decayed = reinterpret_cast<double*>(indices + n);
    double* plain_scores = decayed + n;
    std::uint32_t* order = reinterpret_cast<std::uint32_t*>(plain_scores + n);
    const Strided<double> all_scores = strided<double>(scores);
    std::ptrdiff_t selected = 0;
    run_kernel(64 * n, [&] {
        for (std::ptrdiff_t i = 0; i < n; ++i)
            plain_scores[i] = all_scores.data[i * all_scores.stride];
        const std::ptrdiff_t count = active_kernels().nms.of<double>().descending_order(
            order, all_scores, {false, options.minimum});
        selected = with_dtype(boxes.dtype, [&]<class T>(T) {
            return active_kernels().soft_nms.of<T>().soft_nms(indices, decayed, box_rows<T>(boxes),
                                                              plain_scores, order, count, options);
        });
    });
    const npy_intp shape[] = {selected};
    FloatArray result_scores = new_array(Dtype::float64, 1, shape);
    std::copy(decayed, decayed + selected, result_scores.data<double>());
    cast_to(result_scores, score_dtype);
    return py::make_tuple(int64_vector(indices, selected).owner, result_scores.owner);
}

}  // namespace

void bind_soft_nms(py::module_& m) { def<soft_nms>(m, "soft_nms"); }

}  // namespace stableops
