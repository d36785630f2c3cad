#pragma once
// How a reduction over any set of axes of any strided arrays reaches kernels that know only two
// shapes of data: a contiguous row, and a tile of rows stored [column][row] (simd/sum.h: Along and
// Across).
//
// A contiguous row of the compute type is read and written where it lies. Everything else goes
// through scratch of bounded size: blocks of `sum_block` columns of a row, or tiles of 16 to 256
// rows. A tile is gathered in runs along whichever axis is contiguous, so memory sees whole cache
// lines; it then stays in L1 for all passes. Rows of more than one block are gathered again for
// every pass. The input is never copied as a whole.
//
// Which way a row goes depends on layout and sizes and has no effect on its bits.
//
// An operation is a class `Op` with
//   inputs                          how many operands it reads (scratch is for these)
//   has_peak, emits                 whether it needs a maximum first, whether it writes elements
//   Row start(form, row, n)         what it knows of n rows from `row` on before reading them
//   D peak(form, n, in, row)        the largest value of a block
//   Sum sum(form, column, n, in, row)            the sums of a block that begins at `column`
//   void finish(form, first, n, sum, row)        constants of the rows; values a row has
//   void emit(form, column, n, out, in, row)     elements of a block
// where row.peak is filled in by the driver between peak() and sum().
#include "../dtypes.h"
#include "../row_plan.h"
#include "../runtime/memory.h"
#include "../runtime/parallel.h"
#include "../simd/sum.h"

namespace stableops {

// Elements below which a task is not worth handing over.
constexpr std::ptrdiff_t task_elements = 16384;
// Rows at least this long are worked on along the row, if they are contiguous.
constexpr std::ptrdiff_t long_row = 96;

template <class Isa, class T>
[[gnu::always_inline]] constexpr T smaller(T a, T b) {
    return a < b ? a : b;
}
template <class Isa, class T>
[[gnu::always_inline]] constexpr T larger(T a, T b) {
    return a > b ? a : b;
}

template <class Isa>
std::ptrdiff_t element_bytes(Element type) {
    switch (type) {
        case Element::float64: return 8;
        case Element::float32: return 4;
        case Element::float16:
        case Element::bfloat16: return 2;
        default: return 1;
    }
}

template <class C>
constexpr Element element_of = sizeof(C) == 8 ? Element::float64 : Element::float32;

// A walk over the elements of some axes in C order, in runs along the last of them.
struct Run {
    std::ptrdiff_t offset;
    std::ptrdiff_t length;
};
template <class Isa>
Run run_at(int ndim, const std::ptrdiff_t* size, const std::ptrdiff_t* stride, std::ptrdiff_t index,
           std::ptrdiff_t left) {
    std::ptrdiff_t last = size[ndim - 1];
    if (ndim == 1) return {index * stride[0], smaller<Isa>(last - index, left)};
    std::ptrdiff_t at = index % last;
    std::ptrdiff_t offset = at * stride[ndim - 1];
    std::ptrdiff_t rest = index / last;
    for (int d = ndim - 2; d >= 0 && rest != 0; --d) {
        offset += rest % size[d] * stride[d];
        rest /= size[d];
    }
    return {offset, smaller<Isa>(last - at, left)};
}
template <class Isa>
std::ptrdiff_t row_offset(const RowShape& shape, const RowOperand& a, std::ptrdiff_t row) {
    return run_at<Isa>(shape.kept_ndim, shape.kept_size, a.kept_stride, row, 1).offset;
}

// Elements of storage type T at any byte stride to contiguous C, and back.
template <class Isa, class T, class C>
void read_line(C* to, const char* from, std::ptrdiff_t stride, std::ptrdiff_t n) {
    if constexpr (std::is_same_v<T, C>) {
        if (stride == sizeof(T)) {
            __builtin_memcpy(to, from, static_cast<std::size_t>(n) * sizeof(T));
        } else {
            for (std::ptrdiff_t i = 0; i < n; ++i)
                __builtin_memcpy(to + i, from + i * stride, sizeof(T));
        }
    } else if constexpr (std::is_same_v<T, bool>) {
        for (std::ptrdiff_t i = 0; i < n; ++i) to[i] = from[i * stride] != 0 ? C{1} : C{0};
    } else {
        constexpr int size = Vec<Isa, float>::size;
        for (std::ptrdiff_t i = 0; i < n; i += size) {
            std::ptrdiff_t count = smaller<Isa, std::ptrdiff_t>(size, n - i);
            T narrow[size] = {};
            if (stride == sizeof(T)) {
                __builtin_memcpy(narrow, from + i * stride,
                                 static_cast<std::size_t>(count) * sizeof(T));
            } else {
                for (std::ptrdiff_t j = 0; j < count; ++j)
                    __builtin_memcpy(narrow + j, from + (i + j) * stride, sizeof(T));
            }
            Vec<Isa, float> wide = load<Isa>(narrow, AllLanes{});
            for (std::ptrdiff_t j = 0; j < count; ++j) to[i + j] = wide[static_cast<int>(j)];
        }
    }
}
template <class Isa, class T, class C>
void write_line(char* to, const C* from, std::ptrdiff_t stride, std::ptrdiff_t n) {
    if constexpr (std::is_same_v<T, C>) {
        if (stride == sizeof(T)) {
            __builtin_memcpy(to, from, static_cast<std::size_t>(n) * sizeof(T));
        } else {
            for (std::ptrdiff_t i = 0; i < n; ++i)
                __builtin_memcpy(to + i * stride, from + i, sizeof(T));
        }
    } else {
        constexpr int size = Vec<Isa, float>::size;
        for (std::ptrdiff_t i = 0; i < n; i += size) {
            std::ptrdiff_t count = smaller<Isa, std::ptrdiff_t>(size, n - i);
            C wide[size] = {};
            for (std::ptrdiff_t j = 0; j < count; ++j) wide[j] = from[i + j];
            T narrow[size];
            store(narrow, loadu<Isa>(wide), AllLanes{});
            if (stride == sizeof(T)) {
                __builtin_memcpy(to + i * stride, narrow,
                                 static_cast<std::size_t>(count) * sizeof(T));
            } else {
                for (std::ptrdiff_t j = 0; j < count; ++j)
                    __builtin_memcpy(to + (i + j) * stride, narrow + j, sizeof(T));
            }
        }
    }
}

template <class Isa, class C>
void read_elements(C* to, Element type, const char* from, std::ptrdiff_t stride, std::ptrdiff_t n) {
    if constexpr (sizeof(C) == 4) {
        if (type == Element::float16) return read_line<Isa, float16>(to, from, stride, n);
        if (type == Element::bfloat16) return read_line<Isa, bfloat16>(to, from, stride, n);
    }
    if (type == Element::boolean) return read_line<Isa, bool>(to, from, stride, n);
    read_line<Isa, C>(to, from, stride, n);
}
template <class Isa, class C>
void write_elements(char* to, Element type, const C* from, std::ptrdiff_t stride, std::ptrdiff_t n) {
    if constexpr (sizeof(C) == 4) {
        if (type == Element::float16) return write_line<Isa, float16>(to, from, stride, n);
        if (type == Element::bfloat16) return write_line<Isa, bfloat16>(to, from, stride, n);
    }
    write_line<Isa, C>(to, from, stride, n);
}

// One value a row, for operands without columns.
template <class Isa, class C>
C read_row_value(const RowShape& shape, const RowOperand& a, std::ptrdiff_t row) {
    C value;
    read_elements<Isa>(&value, a.type, a.data + row_offset<Isa>(shape, a, row), 0, 1);
    return value;
}
template <class Isa, class C>
void write_row_value(const RowShape& shape, const RowOperand& a, std::ptrdiff_t row, C value) {
    write_elements<Isa>(a.data + row_offset<Isa>(shape, a, row), a.type, &value, 0, 1);
}

// Columns [column, column + n) of one row.
template <class Isa, class C>
void gather_line(C* to, const RowShape& shape, const RowOperand& a, const char* row_data,
                 std::ptrdiff_t column, std::ptrdiff_t n) {
    while (n > 0) {
        Run run = run_at<Isa>(shape.reduced_ndim, shape.reduced_size, a.reduced_stride, column, n);
        read_elements<Isa>(to, a.type, row_data + run.offset,
                           a.reduced_stride[shape.reduced_ndim - 1], run.length);
        to += run.length;
        column += run.length;
        n -= run.length;
    }
}
template <class Isa, class C>
void scatter_line(const C* from, const RowShape& shape, const RowOperand& a, char* row_data,
                  std::ptrdiff_t column, std::ptrdiff_t n) {
    while (n > 0) {
        Run run = run_at<Isa>(shape.reduced_ndim, shape.reduced_size, a.reduced_stride, column, n);
        write_elements<Isa>(row_data + run.offset, a.type, from,
                            a.reduced_stride[shape.reduced_ndim - 1], run.length);
        from += run.length;
        column += run.length;
        n -= run.length;
    }
}

// A tile holds its rows in strips of `lanes`: element (row, column) at
// [row / lanes][column][row % lanes].
template <class Isa, class C>
struct Tile {
    static constexpr int lanes = Vec<Isa, double>::size;
    static constexpr std::ptrdiff_t max_rows = 256;

    C* data;
    std::ptrdiff_t cols;

    [[gnu::always_inline]] inline C* strip(std::ptrdiff_t s) const { return data + s * cols * lanes; }
    [[gnu::always_inline]] inline C* at(std::ptrdiff_t row, std::ptrdiff_t column) const {
        return data + (row / lanes * cols + column) * lanes + row % lanes;
    }
};

// A rectangle of a tile from or to memory: whole runs of rows where they are neighbours in memory,
// else row by row.
template <class Isa, class C, bool gather>
void move_rectangle(const Tile<Isa, C>& tile, Element type, char* data, std::ptrdiff_t row,
                    std::ptrdiff_t rows, std::ptrdiff_t row_stride, std::ptrdiff_t column,
                    std::ptrdiff_t cols, std::ptrdiff_t column_stride) {
    constexpr std::ptrdiff_t lanes = Tile<Isa, C>::lanes;
    constexpr std::ptrdiff_t chunk = Tile<Isa, C>::max_rows;
    C line[chunk];
    if (row_stride == element_bytes<Isa>(type)) {
        for (std::ptrdiff_t c = 0; c < cols; ++c) {
            char* memory = data + c * column_stride;
            if constexpr (gather) read_elements<Isa>(line, type, memory, row_stride, rows);
            std::ptrdiff_t r = 0;
            for (; r < rows && (row + r) % lanes != 0; ++r) {
                C* t = tile.at(row + r, column + c);
                if constexpr (gather) *t = line[r]; else line[r] = *t;
            }
            for (; r + lanes <= rows; r += lanes) {
                C* t = tile.at(row + r, column + c);
                if constexpr (gather) {
                    __builtin_memcpy(t, line + r, sizeof(C) * lanes);
                } else {
                    __builtin_memcpy(line + r, t, sizeof(C) * lanes);
                }
            }
            for (; r < rows; ++r) {
                C* t = tile.at(row + r, column + c);
                if constexpr (gather) *t = line[r]; else line[r] = *t;
            }
            if constexpr (!gather) write_elements<Isa>(memory, type, line, row_stride, rows);
        }
        return;
    }
    for (std::ptrdiff_t r = 0; r < rows; ++r) {
        for (std::ptrdiff_t c = 0; c < cols; c += chunk) {
            std::ptrdiff_t n = smaller<Isa>(chunk, cols - c);
            char* memory = data + r * row_stride + c * column_stride;
            C* t = tile.at(row + r, column + c);
            if constexpr (gather) {
                read_elements<Isa>(line, type, memory, column_stride, n);
                for (std::ptrdiff_t i = 0; i < n; ++i) t[i * lanes] = line[i];
            } else {
                for (std::ptrdiff_t i = 0; i < n; ++i) line[i] = t[i * lanes];
                write_elements<Isa>(memory, type, line, column_stride, n);
            }
        }
    }
}

template <class Isa, class C, bool gather>
void move_tile(const Tile<Isa, C>& tile, const RowShape& shape, const RowOperand& a,
               std::ptrdiff_t first_row, std::ptrdiff_t rows, std::ptrdiff_t column) {
    for (std::ptrdiff_t r = 0; r < rows;) {
        Run kept =
            run_at<Isa>(shape.kept_ndim, shape.kept_size, a.kept_stride, first_row + r, rows - r);
        for (std::ptrdiff_t c = 0; c < tile.cols;) {
            Run reduced = run_at<Isa>(shape.reduced_ndim, shape.reduced_size, a.reduced_stride,
                                      column + c, tile.cols - c);
            move_rectangle<Isa, C, gather>(tile, a.type, a.data + kept.offset + reduced.offset, r,
                                           kept.length, a.kept_stride[shape.kept_ndim - 1], c,
                                           reduced.length,
                                           a.reduced_stride[shape.reduced_ndim - 1]);
            c += reduced.length;
        }
        r += kept.length;
    }
}

// Memory that tasks share.
template <class Isa>
struct SharedBlock {
    void* data;

    explicit SharedBlock(std::size_t bytes) : data(acquire_block(bytes)) {}
    ~SharedBlock() { release_block(data); }
    SharedBlock(const SharedBlock&) = delete;
    SharedBlock& operator=(const SharedBlock&) = delete;
};

template <class Isa, class C, class Op>
struct RowDriver {
    using D = Vec<Isa, double>;
    static constexpr int inputs = Op::inputs;

    const RowShape& shape;
    const Op& op;
    const RowOperand* out;  // nullptr: no elements are written
    const RowOperand* in[inputs];
    std::ptrdiff_t first = 0;  // the rows to work on: [first, first + count)
    std::ptrdiff_t count = shape.rows;

    [[gnu::always_inline]] inline bool in_place(const RowOperand& a) const {
        return shape.reduced_ndim == 1 && a.type == element_of<C> &&
               (a.reduced_stride[0] == sizeof(C) || shape.cols == 1);
    }

    void run() const {
        if (count == 0 || shape.cols == 0) return;
        bool whole_rows = in_place(*in[0]) && shape.cols >= long_row;
        if (!whole_rows && (count >= 4 || shape.cols < long_row)) return run_across();
        if (count < 2 * num_threads() && shape.cols >= 8 * sum_block) return run_split();
        std::ptrdiff_t per_task = larger<Isa, std::ptrdiff_t>(1, task_elements / shape.cols);
        parallel_for<Isa>((count + per_task - 1) / per_task, [&](std::ptrdiff_t task) {
            Lines lines = this->lines();
            std::ptrdiff_t end = smaller<Isa>(count, (task + 1) * per_task);
            for (std::ptrdiff_t r = task * per_task; r < end; ++r) along(lines, first + r);
        });
    }

  private:
    // Where blocks of one row come from and go to.
    struct Lines {
        C* scratch[inputs + 1];
        std::ptrdiff_t held_row;
        std::ptrdiff_t held_column;
    };

    Lines lines() const {
        std::ptrdiff_t length = smaller<Isa>(shape.cols, sum_block);
        length = (length + 15) / 16 * 16;
        C* scratch = static_cast<C*>(
            thread_scratch(static_cast<std::size_t>((inputs + 1) * length) * sizeof(C)));
        Lines lines;
        for (int k = 0; k <= inputs; ++k) lines.scratch[k] = scratch + k * length;
        lines.held_row = -1;
        lines.held_column = -1;
        return lines;
    }

    // Points `data` at columns [column, column + n) of the row, gathering what is not in place.
    [[gnu::always_inline]] inline void fetch(Lines& lines, std::ptrdiff_t row, std::ptrdiff_t column,
                                             std::ptrdiff_t n, const C* (&data)[inputs]) const {
        bool held = lines.held_row == row && lines.held_column == column;
        for (int k = 0; k < inputs; ++k) {
            const char* row_data = in[k]->data + row_offset<Isa>(shape, *in[k], row);
            if (in_place(*in[k])) {
                data[k] = reinterpret_cast<const C*>(row_data) + column;
            } else {
                data[k] = lines.scratch[k];
                if (!held) gather_line<Isa>(lines.scratch[k], shape, *in[k], row_data, column, n);
            }
        }
        lines.held_row = row;
        lines.held_column = column;
    }

    using Form = Along<Isa, C>;
    using Row = typename Op::Row;
    using Sum = typename Op::Sum;

    [[gnu::always_inline]] inline std::ptrdiff_t block_length(std::ptrdiff_t column) const {
        return smaller<Isa>(sum_block, shape.cols - column);
    }

    [[gnu::always_inline]] inline D peak_of_block(Lines& lines, std::ptrdiff_t row,
                                                  std::ptrdiff_t column, const Row& state) const {
        const C* data[inputs];
        std::ptrdiff_t n = block_length(column);
        fetch(lines, row, column, n, data);
        return op.peak(Form{}, n, data, state);
    }
    [[gnu::always_inline]] inline Sum sum_of_block(Lines& lines, std::ptrdiff_t row,
                                                   std::ptrdiff_t column, const Row& state) const {
        const C* data[inputs];
        std::ptrdiff_t n = block_length(column);
        fetch(lines, row, column, n, data);
        return op.sum(Form{}, column, n, data, state);
    }
    [[gnu::always_inline]] inline void emit_block(Lines& lines, std::ptrdiff_t row,
                                                  std::ptrdiff_t column, const Row& state) const {
        const C* data[inputs];
        std::ptrdiff_t n = block_length(column);
        fetch(lines, row, column, n, data);
        char* row_data = out->data + row_offset<Isa>(shape, *out, row);
        if (in_place(*out)) {
            op.emit(Form{}, column, n, reinterpret_cast<C*>(row_data) + column, data, state);
        } else {
            op.emit(Form{}, column, n, lines.scratch[inputs], data, state);
            scatter_line<Isa>(lines.scratch[inputs], shape, *out, row_data, column, n);
        }
    }

    void along(Lines& lines, std::ptrdiff_t row) const {
        Row state = op.start(Form{}, row, 1);
        if constexpr (Op::has_peak) {
            D peak = peak_of_block(lines, row, 0, state);
            for (std::ptrdiff_t c = sum_block; c < shape.cols; c += sum_block)
                peak = max(peak, peak_of_block(lines, row, c, state));
            state.peak = peak;
        }
        Sum sum = sum_of_block(lines, row, 0, state);
        for (std::ptrdiff_t c = sum_block; c < shape.cols; c += sum_block)
            sum = plus(sum, sum_of_block(lines, row, c, state));
        op.finish(Form{}, row, 1, sum, state);
        if constexpr (Op::emits) {
            if (out == nullptr) return;
            for (std::ptrdiff_t c = 0; c < shape.cols; c += sum_block)
                emit_block(lines, row, c, state);
        }
    }

    // Few and long rows: every pass is a parallel region of its own, a block a task.
    void run_split() const {
        std::ptrdiff_t blocks = (shape.cols + sum_block - 1) / sum_block;
        std::size_t tasks = static_cast<std::size_t>(count * blocks);
        SharedBlock<Isa> shared(static_cast<std::size_t>(count) * sizeof(Row) +
                                tasks * sizeof(Sum));
        Sum* sums = static_cast<Sum*>(shared.data);
        Row* states = reinterpret_cast<Row*>(sums + tasks);
        D* peaks = reinterpret_cast<D*>(sums);
        static_assert(sizeof(D) <= sizeof(Sum));
        auto each_block = [&](const auto& work) {
            parallel_for<Isa>(static_cast<std::ptrdiff_t>(tasks), [&](std::ptrdiff_t task) {
                Lines lines = this->lines();
                work(lines, task, states[task / blocks], first + task / blocks,
                     task % blocks * sum_block);
            });
        };
        for (std::ptrdiff_t r = 0; r < count; ++r) states[r] = op.start(Form{}, first + r, 1);
        if constexpr (Op::has_peak) {
            each_block([&](Lines& lines, std::ptrdiff_t task, const Row& state, std::ptrdiff_t row,
                           std::ptrdiff_t column) {
                peaks[task] = peak_of_block(lines, row, column, state);
            });
            for (std::ptrdiff_t r = 0; r < count; ++r) {
                D peak = peaks[r * blocks];
                for (std::ptrdiff_t b = 1; b < blocks; ++b) peak = max(peak, peaks[r * blocks + b]);
                states[r].peak = peak;
            }
        }
        each_block([&](Lines& lines, std::ptrdiff_t task, const Row& state, std::ptrdiff_t row,
                       std::ptrdiff_t column) {
            sums[task] = sum_of_block(lines, row, column, state);
        });
        for (std::ptrdiff_t r = 0; r < count; ++r) {
            Sum sum = sums[r * blocks];
            for (std::ptrdiff_t b = 1; b < blocks; ++b) sum = plus(sum, sums[r * blocks + b]);
            op.finish(Form{}, first + r, 1, sum, states[r]);
        }
        if constexpr (Op::emits) {
            if (out == nullptr) return;
            each_block([&](Lines& lines, std::ptrdiff_t, const Row& state, std::ptrdiff_t row,
                           std::ptrdiff_t column) {
                emit_block(lines, row, column, state);
            });
        }
    }

    void run_across() const {
        std::ptrdiff_t cols = smaller<Isa>(shape.cols, sum_block);
        // 32 KB of tile: it stays in L1 beside the accumulators.
        std::ptrdiff_t tile_rows =
            32768 / (inputs * cols * static_cast<std::ptrdiff_t>(sizeof(C))) / 16 * 16;
        tile_rows = smaller<Isa, std::ptrdiff_t>(Tile<Isa, C>::max_rows,
                                                 larger<Isa, std::ptrdiff_t>(16, tile_rows));
        std::ptrdiff_t tiles = (count + tile_rows - 1) / tile_rows;
        std::ptrdiff_t per_task =
            larger<Isa, std::ptrdiff_t>(1, task_elements / (tile_rows * shape.cols));
        parallel_for<Isa>((tiles + per_task - 1) / per_task, [&](std::ptrdiff_t task) {
            std::size_t tile_size = static_cast<std::size_t>(tile_rows * cols);
            C* scratch = static_cast<C*>(thread_scratch(inputs * tile_size * sizeof(C)));
            std::ptrdiff_t end = smaller<Isa>(tiles, (task + 1) * per_task);
            for (std::ptrdiff_t t = task * per_task; t < end; ++t)
                across(scratch, tile_size, first + t * tile_rows,
                       smaller<Isa>(tile_rows, count - t * tile_rows));
        });
    }

    void across(C* scratch, std::size_t tile_size, std::ptrdiff_t first_row,
                std::ptrdiff_t rows) const {
        using Form = Across<Isa, C>;
        constexpr std::ptrdiff_t lanes = Form::lanes;
        constexpr int max_strips = Tile<Isa, C>::max_rows / lanes;
        std::ptrdiff_t strips = (rows + lanes - 1) / lanes;
        bool one_block = shape.cols <= sum_block;
        Tile<Isa, C> tile[inputs];
        Row states[max_strips];
        Sum sums[max_strips];

        auto gather = [&](std::ptrdiff_t column) {
            for (int k = 0; k < inputs; ++k) {
                tile[k] = {scratch + static_cast<std::size_t>(k) * tile_size, block_length(column)};
                if (rows % lanes != 0) {
                    // The lanes without a row compute on zeros.
                    C* last = tile[k].strip(strips - 1);
                    for (std::ptrdiff_t i = 0; i < tile[k].cols * lanes; ++i) last[i] = 0;
                }
                move_tile<Isa, C, true>(tile[k], shape, *in[k], first_row, rows, column);
            }
        };
        auto each_strip = [&](const auto& work) {
            for (std::ptrdiff_t c = 0; c < shape.cols; c += sum_block) {
                if (!one_block) gather(c);
                for (std::ptrdiff_t s = 0; s < strips; ++s) {
                    const C* data[inputs];
                    for (int k = 0; k < inputs; ++k) data[k] = tile[k].strip(s);
                    work(s, c, data);
                }
            }
        };
        auto rows_of = [&](std::ptrdiff_t s) { return smaller<Isa>(lanes, rows - s * lanes); };

        if (one_block) gather(0);
        for (std::ptrdiff_t s = 0; s < strips; ++s)
            states[s] = op.start(Form{}, first_row + s * lanes, rows_of(s));
        if constexpr (Op::has_peak) {
            each_strip([&](std::ptrdiff_t s, std::ptrdiff_t c, const C*(&data)[inputs]) {
                D peak = op.peak(Form{}, tile[0].cols, data, states[s]);
                states[s].peak = c == 0 ? peak : max(states[s].peak, peak);
            });
        }
        each_strip([&](std::ptrdiff_t s, std::ptrdiff_t c, const C*(&data)[inputs]) {
            Sum sum = op.sum(Form{}, c, tile[0].cols, data, states[s]);
            sums[s] = c == 0 ? sum : plus(sums[s], sum);
        });
        for (std::ptrdiff_t s = 0; s < strips; ++s)
            op.finish(Form{}, first_row + s * lanes, rows_of(s), sums[s], states[s]);
        if constexpr (Op::emits) {
            if (out == nullptr) return;
            for (std::ptrdiff_t c = 0; c < shape.cols; c += sum_block) {
                if (!one_block) gather(c);
                for (std::ptrdiff_t s = 0; s < strips; ++s) {
                    const C* data[inputs];
                    for (int k = 0; k < inputs; ++k) data[k] = tile[k].strip(s);
                    op.emit(Form{}, c, tile[0].cols, tile[0].strip(s), data, states[s]);
                }
                move_tile<Isa, C, false>(tile[0], shape, *out, first_row, rows, c);
            }
        }
    }
};

}  // namespace stableops
