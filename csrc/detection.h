#pragma once
// The plain structs that bindings and kernels of the detection families share.
#include <cstddef>

namespace stableops {

// Boxes as rows of coordinates, strides in elements.
template <class T>
struct BoxRows {
    const T* data;
    std::ptrdiff_t count;
    std::ptrdiff_t row_stride;
    std::ptrdiff_t column_stride;
};

// A strided vector.
template <class T>
struct Strided {
    const T* data;
    std::ptrdiff_t count;
    std::ptrdiff_t stride;
};

enum class BoxFormat { xyxy, xywh, cxcywh };

// Which scores take part: all, NaN included, or those above `minimum`, which NaN is not.
struct ScoreCut {
    bool all;
    double minimum;
};

struct SoftNmsOptions {
    bool gaussian;         // else linear
    double iou_threshold;  // linear
    double sigma;          // gaussian
    double minimum;        // scores not above it are dropped
};

enum class FusedConfidence { avg, max, box_and_model_avg, absent_model_aware_avg };

struct FusionOptions {
    double iou_threshold;
    double minimum;  // boxes of lower scores are left out; not negative
    FusedConfidence confidence;
    bool allows_overflow;
    const double* weights;  // one a model, not negative
    std::ptrdiff_t models;
    double weight_sum, weight_max;
};

}  // namespace stableops
