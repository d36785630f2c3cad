#pragma once
// max_pool2d where vectors are neighbouring outputs of a row.
#include "../pool2d_shape.h"
#include "max_pool2d_taps.h"

namespace stableops {

// A row of outputs from some rows of its windows: the state that earlier rows left in `y` and
// `offsets`, unless it `starts` here. Tap s of window ox is row[r][tap[s] + ox] (RowLayout).
template <class Isa, class C>
struct MaxPoolRow {
    static constexpr int most = 8;
    using I = typename MaxPoolTypes<Isa, C>::I;
    const C* row[most];
    int rows;
    bool starts;
    std::ptrdiff_t taps;
    const std::ptrdiff_t* tap;
    std::ptrdiff_t count;  // at least a vector, or there is room for one in all that is written
    C* y;
    // With indices: offsets of taps, in elements of the plane, from tap (0, 0) of their window.
    I* offsets;
    const I* first_column;  // of each window's first tap inside, along W
    std::ptrdiff_t first_row, row_offset, rows_apart, columns_apart;
};

template <class Isa, class C, bool with_indices>
[[gnu::noinline]] void max_pool_row(const MaxPoolRow<Isa, C>& in) {
    using Types = MaxPoolTypes<Isa, C>;
    using V = typename Types::V;
    using I = typename Types::I;
    using Offsets = typename Types::Offsets;
    // The last vector overlaps the one before: doing an output twice changes nothing.
    const auto pool = [&](std::ptrdiff_t ox) [[gnu::always_inline]] {
        MaxPoolState<Isa, C> start = {V::splat(Types::lowest()), {}};
        if (!in.starts) start.value = loadu<Isa>(in.y + ox);
        if constexpr (with_indices)
            start.offset = in.starts ? loadu<Isa>(in.first_column + ox) +
                                           Offsets::splat(static_cast<I>(in.first_row))
                                     : loadu<Isa>(in.offsets + ox);
        return max_of_taps<Isa, C, with_indices>(
            start, [&](auto&& body) [[gnu::always_inline]] {
                std::ptrdiff_t row_offset = in.row_offset;
                for (int r = 0; r < in.rows; ++r, row_offset += in.rows_apart) {
                    const C* row = in.row[r] + ox;
                    std::ptrdiff_t offset = row_offset;
                    for (std::ptrdiff_t s = 0; s < in.taps; ++s, offset += in.columns_apart)
                        body(loadu<Isa>(row + in.tap[s]), offset);
                }
            });
    };
    const auto put = [&](std::ptrdiff_t ox, const MaxPoolState<Isa, C>& best)
                         [[gnu::always_inline]] {
        storeu(in.y + ox, best.value);
        if constexpr (with_indices) storeu(in.offsets + ox, best.offset);
    };
    std::ptrdiff_t ox = 0;
    for (; ox + V::size < in.count; ox += V::size) put(ox, pool(ox));
    ox = larger<Isa>(0, in.count - V::size);
    put(ox, pool(ox));
}

// indices[ox] = base + ox * stride + offsets[ox]
template <class Isa, class I>
[[gnu::noinline]] void write_indices(std::int64_t* indices, const I* offsets, std::ptrdiff_t base,
                                     std::ptrdiff_t stride, std::ptrdiff_t count) {
    for (std::ptrdiff_t ox = 0; ox < count; ++ox) indices[ox] = base + ox * stride + offsets[ox];
}

// All that the rows of a plane have in common.
template <class Isa, class C>
struct MaxPoolPlanes {
    using Row = MaxPoolRow<Isa, C>;
    using I = typename Row::I;
    using Ring = RowRing<Isa, C>;
    static constexpr int most = Row::most;

    const Pool2dShape& shape;
    Ring ring;    // of the image
    Ring maxima;  // of the image's rows, each reduced to the maxima of its windows
    std::ptrdiff_t line;
    std::ptrdiff_t* taps;
    I* first_column;
    I* offsets;
    C* y_line;
    std::ptrdiff_t single_tap = 0;

    static std::ptrdiff_t extent(std::ptrdiff_t kernel, std::ptrdiff_t dilation) {
        return (kernel - 1) * dilation + 1;
    }
    // Not where padding and strides are far larger than the image.
    static bool fits(const Pool2dShape& shape) {
        const RowLayout row = layout(shape, {});
        return row.phases * row.phase_length <= 4 * shape.width + 4096;
    }
    static RowLayout layout(const Pool2dShape& shape, const ImageStrides& stride) {
        const std::ptrdiff_t reach = extent(shape.kernel_w, shape.dilation_w);
        RowLayout result = {shape.width, stride.w, shape.pad_w, shape.stride_w,
                            smaller<Isa>(shape.stride_w, reach),
                            shape.out_w + quotient<Isa>(reach - 1, shape.stride_w)};
        result.width = smaller<Isa>(result.width,
                                    result.phase_length * result.stride - result.left);
        // Vectors of too few windows read on.
        if (shape.out_w < Vec<Isa, C>::size) result.phase_length += Vec<Isa, C>::size;
        return result;
    }
    MaxPoolPlanes(const Pool2dShape& shape, const ImageStrides& stride, const PlaneAccess<C>& access)
        : shape(shape),
          ring(access, layout(shape, stride), stride.h),
          maxima(access, {shape.out_w, 2, 0, 1, 1, shape.out_w + Vec<Isa, C>::size}, 0),
          line(larger<Isa>(shape.out_w, Vec<Isa, C>::size)) {}


    std::size_t scratch_size() const {
        const auto size = [](std::ptrdiff_t count, std::size_t each) {
            return ScratchParts<Isa>::aligned(static_cast<std::size_t>(count) * each);
        };
        return ring.scratch_size() + maxima.scratch_size() +
               size(shape.kernel_w, sizeof(std::ptrdiff_t)) + 2 * size(line, sizeof(I)) +
               size(line, sizeof(C));
    }
    void use_scratch(ScratchParts<Isa>& parts) {
        ring.use_scratch(parts, MaxPoolTypes<Isa, C>::lowest());
        maxima.use_scratch(parts, MaxPoolTypes<Isa, C>::lowest());
        taps = parts.template take<std::ptrdiff_t>(shape.kernel_w);
        first_column = parts.template take<I>(line);
        offsets = parts.template take<I>(line);
        y_line = parts.template take<C>(line);
        for (std::ptrdiff_t s = 0; s < shape.kernel_w; ++s) {
            const std::ptrdiff_t column = s * shape.dilation_w;
            const std::ptrdiff_t window = quotient<Isa>(column, shape.stride_w);
            taps[s] = (column - window * shape.stride_w) * ring.layout.phase_length + window;
        }
        for (std::ptrdiff_t ox = 0; ox < line; ++ox) {
            const Taps inside = taps_inside<Isa>(ox * shape.stride_w - shape.pad_w, shape.kernel_w,
                                                 shape.dilation_w, shape.width);
            first_column[ox] = static_cast<I>(inside.first * shape.dilation_w);
        }
    }
    std::ptrdiff_t start(std::ptrdiff_t oy) const { return oy * shape.stride_h - shape.pad_h; }

    // Rows [begin, end) of the outputs of plane number `plane`; `indices` may be nullptr.
    void pool(std::ptrdiff_t plane, std::ptrdiff_t begin, std::ptrdiff_t end, char* y,
              std::int64_t* indices) {
        const std::ptrdiff_t group = smaller<Isa>(shape.kernel_h, most);
        // Rows of one group, and of the windows below that share them, fit the ring.
        const bool reuse = (group - 1) * shape.dilation_h < Ring::slots;
        const bool ahead = !ring.direct && group == shape.kernel_h &&
                           (group - 1) * shape.dilation_h + shape.stride_h < Ring::slots;
        const bool separable = indices == nullptr && shape.kernel_h > shape.stride_h &&
                               shape.kernel_h * shape.kernel_w > 9 && reuse;
        Row row;
        row.offsets = offsets;
        row.first_column = first_column;
        row.columns_apart = shape.dilation_w;
        row.rows_apart = shape.dilation_h * shape.width;
        row.count = shape.out_w;
        const auto use_taps = [&](bool all) {
            row.taps = all ? shape.kernel_w : 1;
            row.tap = all ? taps : &single_tap;
        };
        const auto maxima_of = [&](std::ptrdiff_t h) {
            const std::ptrdiff_t slot = Ring::slot_of(h);
            C* to = maxima.copies + slot * maxima.pitch;
            if (maxima.held[slot] == h) return to;
            maxima.held[slot] = h;
            use_taps(true);
            row.row[0] = ring.row(h);
            row.rows = 1;
            row.starts = true;
            row.y = to;
            max_pool_row<Isa, C, false>(row);
            use_taps(false);
            return to;
        };
        use_taps(!separable);
        for (std::ptrdiff_t oy = begin; oy < end; ++oy) {
            if (ahead && oy + 1 < end)
                for (std::ptrdiff_t k = 0; k < shape.kernel_h; ++k) {
                    const std::ptrdiff_t h = start(oy + 1) + k * shape.dilation_h;
                    if (h >= 0 && h < shape.height) ring.row(h);
                }
            const Taps inside =
                taps_inside<Isa>(start(oy), shape.kernel_h, shape.dilation_h, shape.height);
            const std::ptrdiff_t at = (plane * shape.out_h + oy) * shape.out_w;
            char* y_row = y + at * ring.access.element_size;
            const bool in_place = ring.access.stored_as_is && shape.out_w == line;
            C* const values = in_place ? reinterpret_cast<C*>(y_row) : y_line;
            row.first_row = inside.first * row.rows_apart;
            for (std::ptrdiff_t r = inside.first; r < inside.end; r += most) {
                const int rows = static_cast<int>(smaller<Isa>(inside.end - r, most));
                const C* source[most];
                for (int k = 0; k < rows; ++k) {
                    const std::ptrdiff_t h = start(oy) + (r + k) * shape.dilation_h;
                    source[k] = separable ? maxima_of(h)
                                          : ring.row_in_slot(h, reuse ? Ring::slot_of(h) : k);
                }
                for (int k = 0; k < rows; ++k) row.row[k] = source[k];
                row.rows = rows;
                row.starts = r == inside.first;
                row.y = values;
                row.row_offset = r * row.rows_apart;
                indices ? max_pool_row<Isa, C, true>(row) : max_pool_row<Isa, C, false>(row);
            }
            if (!in_place) ring.access.store(y_row, values, shape.out_w);
            if (indices)
                write_indices<Isa>(indices + at, offsets, start(oy) * shape.width - shape.pad_w,
                                   shape.stride_w, shape.out_w);
        }
    }
};

template <class Isa, class C>
[[gnu::noinline]] void max_pool_planes(const Pool2dShape& shape, void* y, std::int64_t* indices,
                                       const void* x, const ImageStrides& stride,
                                       const PlaneAccess<C>& access) {
    for_row_blocks<Isa>(
        shape.batch, shape.channels, shape.out_h,
        shape.out_w * shape.kernel_h * shape.kernel_w + 64, [&](RowRange<Isa> range) {
            MaxPoolPlanes<Isa, C> planes(shape, stride, access);
            ScratchParts<Isa> parts{static_cast<char*>(thread_scratch(planes.scratch_size()))};
            planes.use_scratch(parts);
            while (range.next_plane()) {
                planes.ring.set_plane(
                    static_cast<const char*>(x) +
                    (range.outer * stride.n + range.inner * stride.c) * access.element_size);
                planes.maxima.set_plane(nullptr);
                planes.pool(range.plane(), range.first, range.last, static_cast<char*>(y), indices);
            }
        });
}

}  // namespace stableops
