#pragma once
// Weights packed beforehand, and the `weight` argument of conv2d and linear, which takes them.
#include "../conv2d_shape.h"
#include "array.h"

namespace stableops {

// What pack_conv2d_weight and pack_linear_weight return. Never changes.
struct PackedWeight {
    std::vector<npy_intp> shape;  // (K, C / groups, R, S) or (out_features, in_features)
    std::ptrdiff_t groups;
    py::object dtype_object;
    Dtype dtype;
    bool panels;
    // Panels in the compute type, or the weight as it is in its own; contiguous and read-only.
    FloatArray values;

    // Packs `weight`; `sizes` has everything but the image.
    PackedWeight(const FloatArray& weight, const Conv2dShape& sizes);
    // From what state() returned.
    explicit PackedWeight(const py::tuple& state);

    py::tuple state() const;
    std::string text() const;
};

void bind_packed_weight(py::module_& m);

class WeightArgument {
  public:
    // Of `ndim` dimensions if it is packed; an array is for the caller to check.
    WeightArgument(const py::object& weight, int ndim, const char* packer);

    int ndim() const { return packed_ ? static_cast<int>(packed_->shape.size()) : array_.ndim(); }
    const npy_intp* shape() const { return packed_ ? packed_->shape.data() : array_.shape(); }
    std::string text() const { return shape_text(ndim(), shape()); }
    std::ptrdiff_t stride(int axis) const;
    // nullptr for an array.
    const PackedWeight* packed() const { return packed_; }
    // For promoted() and for overlaps with an output.
    const FloatArray& array() const { return array_; }
    // To the dtype of the result, which is the only one that a packed weight has.
    void cast(Dtype dtype);

    // Where the kernels find it: one of the two is null.
    template <class T>
    const T* data() const {
        return packed_ && packed_->panels ? nullptr : values().data<const T>();
    }
    template <class C>
    const C* panels() const {
        return packed_ && packed_->panels ? values().data<const C>() : nullptr;
    }

  private:
    const FloatArray& values() const { return packed_ ? packed_->values : array_; }

    FloatArray array_;
    py::object owner_;
    const PackedWeight* packed_ = nullptr;
};

// The `weight` argument of a function that takes arrays only.
FloatArray unpacked_weight(const py::object& weight, const char* function);

}  // namespace stableops
