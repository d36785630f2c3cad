#pragma once
// Arguments that the detection families share.
#include <cstdint>

#include "../kernels.h"
#include "../runtime/memory.h"
#include "array.h"
#include "settings.h"

namespace stableops {

// Any array-like of shape (N, columns); ValueError otherwise, and for 2^31 rows or more.
FloatArray as_boxes(const py::object& x, const char* name, int columns = 4);

// Any array-like of shape (N,) for the N rows of `boxes`.
FloatArray as_scores(const py::object& x, const FloatArray& boxes);
Array as_class_ids(const py::object& x, const FloatArray& boxes);

// None for no limit, else an int that is not negative.
std::ptrdiff_t output_limit(const py::object& x, std::ptrdiff_t none);

// None for all scores.
ScoreCut score_cut(const py::object& x);

template <class T>
BoxRows<T> box_rows(const Array& boxes) {
    return {boxes.data<const T>(), boxes.shape()[0], boxes.stride(0), boxes.stride(1)};
}

template <class T>
Strided<T> strided(const Array& x) {
    return {x.data<const T>(), x.shape()[0], x.stride(0)};
}

// Memory for one call that is no result.
class Block {
  public:
    explicit Block(std::size_t bytes) : data_(acquire_block(bytes)) {}
    ~Block() { release_block(data_); }
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;

    template <class T>
    T* as() const {
        return static_cast<T*>(data_);
    }

  private:
    void* data_;
};

// ValueError unless x is of shape (N,) for the N rows of `boxes`.
void check_length(const Array& x, const char* name, const FloatArray& boxes);

// A new (count,) array with a copy of `values`.
Array int64_vector(const std::int64_t* values, std::ptrdiff_t count);

// The arguments of the nms functions.
struct SuppressionArguments {
    FloatArray boxes;
    FloatArray scores;
    double threshold;
    std::ptrdiff_t max_output;
    ScoreCut cut;

    SuppressionArguments(const py::object& boxes_object, const py::object& scores_object,
                         const py::object& threshold_object, const py::object& max_output_object,
                         const py::object& score_threshold, int columns = 4)
        : boxes(as_boxes(boxes_object, "boxes", columns)),
          scores(as_scores(scores_object, boxes)),
          threshold(number_in(threshold_object, "iou_threshold", 0.0, 1.0)),
          max_output(output_limit(max_output_object, boxes.shape()[0])),
          cut(score_cut(score_threshold)) {}

    // Orders the candidates and calls suppress(kept, order, count), which returns how many it kept.
    template <class Suppress>
    py::object run(const Suppress& suppress) const {
        const std::ptrdiff_t n = boxes.shape()[0];
        const Block block(static_cast<std::size_t>(n) *
                          (sizeof(std::int64_t) + sizeof(std::uint32_t)));
        std::int64_t* kept = block.as<std::int64_t>();
        std::uint32_t* order = reinterpret_cast<std::uint32_t*>(kept + n);
        std::ptrdiff_t kept_count = 0;
        run_kernel(4 * n, [&] {
            const std::ptrdiff_t count = with_dtype(scores.dtype, [&]<class S>(S) {
                return active_kernels().nms.of<S>().descending_order(order, strided<S>(scores),
                                                                     cut);
            });
            kept_count = suppress(kept, order, count);
        });
        return int64_vector(kept, kept_count).owner;
    }
};

}  // namespace stableops
