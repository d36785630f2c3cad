#pragma once
// Arguments that the detection families share.
#include <cstdint>

#include "../detection.h"
#include "../runtime/memory.h"
#include "array.h"

namespace stableops {

// Any array-like of shape (N, columns); ValueError otherwise, and for 2^31 rows or more.
FloatArray as_boxes(const py::object& x, const char* name, int columns = 4);

// Any array-like of shape (N,) for the N rows of `boxes`.
FloatArray as_scores(const py::object& x, const FloatArray& boxes);
Array as_class_ids(const py::object& x, const FloatArray& boxes);

// A number, or ValueError if it is NaN or outside [low, high], TypeError if it is no number.
double number_in(const py::object& x, const char* name, double low, double high);

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

// A new (count,) array with a copy of `values`.
Array int64_vector(const std::int64_t* values, std::ptrdiff_t count);

}  // namespace stableops
