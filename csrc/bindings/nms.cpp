#include "../kernels.h"
#include "detection.h"
#include "families.h"

namespace stableops {
namespace {

struct Request {
    FloatArray boxes;
    FloatArray scores;
    double threshold;
    std::ptrdiff_t max_output;
    ScoreCut cut;

    Request(const py::object& boxes_object, const py::object& scores_object,
            const py::object& threshold_object, const py::object& max_output_object,
            const py::object& score_threshold)
        : boxes(as_boxes(boxes_object, "boxes")),
          scores(as_scores(scores_object, boxes)),
          threshold(number_in(threshold_object, "iou_threshold", 0.0, 1.0)),
          max_output(output_limit(max_output_object, boxes.shape()[0])),
          cut(score_cut(score_threshold)) {}

    // Orders the candidates and calls suppress(kept, order, count), which returns how many it kept.
    template <class Suppress>
    py::object run(const Suppress& suppress) const {
        const std::ptrdiff_t n = boxes.shape()[0];
        const Block block(static_cast<std::size_t>(n) * (sizeof(std::int64_t) + sizeof(std::uint32_t)));
        std::int64_t* kept = block.as<std::int64_t>();
        std::uint32_t* order = reinterpret_cast<std::uint32_t*>(kept + n);
        std::ptrdiff_t kept_count = 0;
        run_kernel(4 * n, [&] {
            const std::ptrdiff_t count = with_dtype(scores.dtype, [&]<class S>(S) {
                return active_kernels().nms.of<S>().descending_order(order, strided<S>(scores), cut);
            });
            kept_count = suppress(kept, order, count);
        });
        return int64_vector(kept, kept_count).owner;
    }
};

py::object nms(const py::object& boxes, const py::object& scores, const py::object& iou_threshold,
               const py::object& max_output, const py::object& score_threshold) {
    const Request r(boxes, scores, iou_threshold, max_output, score_threshold);
    return r.run([&](std::int64_t* kept, const std::uint32_t* order, std::ptrdiff_t count) {
        return with_dtype(r.boxes.dtype, [&]<class T>(T) {
            return active_kernels().nms.of<T>().nms(kept, box_rows<T>(r.boxes), order, count,
                                                    r.threshold, r.max_output);
        });
    });
}

py::object batched_nms(const py::object& boxes, const py::object& scores, const py::object& idxs,
                       const py::object& iou_threshold, const py::object& max_output,
                       const py::object& score_threshold) {
    const Request r(boxes, scores, iou_threshold, max_output, score_threshold);
    const Array ids = as_class_ids(idxs, r.boxes);
    return r.run([&](std::int64_t* kept, const std::uint32_t* order, std::ptrdiff_t count) {
        return with_dtype(r.boxes.dtype, [&]<class T>(T) {
            return active_kernels().nms.of<T>().batched_nms(
                kept, box_rows<T>(r.boxes), strided<std::int64_t>(ids), order, count, r.threshold,
                r.max_output);
        });
    });
}

}  // namespace

void bind_nms(py::module_& m) {
    m.def("nms", &nms);
    m.def("batched_nms", &batched_nms);
}

}  // namespace stableops
