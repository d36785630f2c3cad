#pragma once
// Weighted boxes fusion: the boxes that several models predict for one object become one box.
//
// Boxes of a class go by descending weight (score times the weight of its model, ties by position).
// Each joins the cluster whose fused box it overlaps with the highest IoU, if that is above the
// threshold (ties: the older cluster), else it opens a cluster. The fused box is the mean of the
// cluster's corners, weighted by their weights, and is updated with each box that joins:
//     fused = sum s_i b_i / sum s_i,
// sums in float64 in the order of joining. The score is c = sum s_i / n, rescaled:
//     avg                      c min(models, n) / sum of all models' weights,
//                              or c n / that sum with allows_overflow
//     max                      max s_i / largest weight of a model
//     box_and_model_avg        c n / W * (weights of the models present) / (all weights)
//     absent_model_aware_avg   c n / (W + weights of the models absent)
// with W the sum of the weights of the boxes' models. Boxes without area, with a coordinate or
// score that is not finite, or with a score below the minimum are left out.
//
// Fused boxes are tested a vector at a time with the first test of nms.h, which no pair above the
// threshold fails; the IoU of the few that pass is computed one by one.
//
// Reference: Solovyev, Wang & Gabruseva, "Weighted boxes fusion", Image and Vision Computing 2021;
// their package ensemble-boxes, which keeps fused boxes in float32.
#include "nms.h"
#include "soft_nms.h"

namespace stableops {

// Boxes in the order they came. Positions beyond the last hold boxes that overlap nothing.
template <class Isa, class T>
struct SelectedBoxes {
    T *x1, *y1, *x2, *y2, *term;
    std::ptrdiff_t count = 0;

    static std::ptrdiff_t column(std::ptrdiff_t n) { return (n + 31) / 16 * 16; }
    static std::ptrdiff_t bytes(std::ptrdiff_t n) {
        return 5 * column(n) * static_cast<std::ptrdiff_t>(sizeof(T));
    }

    SelectedBoxes(void* memory, std::ptrdiff_t n) {
        constexpr T infinity = static_cast<T>(__builtin_inf());
        std::ptrdiff_t size = column(n);
        x1 = static_cast<T*>(memory);
        y1 = x1 + size;
        x2 = y1 + size;
        y2 = x2 + size;
        term = y2 + size;
        for (std::ptrdiff_t i = 0; i < size; ++i) {
            x1[i] = y1[i] = infinity;
            x2[i] = y2[i] = -infinity;
            term[i] = infinity;
        }
    }

    void set(std::ptrdiff_t i, const Box<T>& box, T box_term) {
        x1[i] = box.x1;
        y1[i] = box.y1;
        x2[i] = box.x2;
        y2[i] = box.y2;
        term[i] = box_term;
    }
    void add(const Box<T>& box, T box_term) { set(count++, box, box_term); }
    Corners operator[](std::ptrdiff_t i) const { return {x1[i], y1[i], x2[i], y2[i]}; }
};

// Clusters of one class, in the order in which they were opened. Positions beyond the last hold
// fused boxes that overlap nothing.
template <class Isa>
struct Clusters {
    SelectedBoxes<Isa, double> fused;
    double* corner_sums;  // four a cluster
    double* score_sum;
    double* score_max;
    double* weight_sum;
    std::int32_t* boxes;        // how many
    std::int32_t* last_member;  // positions in the order of candidates, chained by `previous`
    std::uint32_t* first_member;
};

template <class Isa>
std::ptrdiff_t best_cluster(const Clusters<Isa>& clusters, const Box<double>& box,
                            const IouTest<double>& test) {
    using V = Vec<Isa, double>;
    const SelectedBoxes<Isa, double>& fused = clusters.fused;
    V x1 = V::splat(box.x1), y1 = V::splat(box.y1), x2 = V::splat(box.x2), y2 = V::splat(box.y2);
    V term = V::splat(test_term<Isa>(test, box, 0));
    Corners own = corners<Isa>(box);
    std::ptrdiff_t best = -1;
    double best_iou = test.threshold;
    for (std::ptrdiff_t j = 0; j < fused.count; j += V::size) {
        V width = min(x2, loadu<Isa>(fused.x2 + j)) - max(x1, loadu<Isa>(fused.x1 + j));
        V height = min(y2, loadu<Isa>(fused.y2 + j)) - max(y1, loadu<Isa>(fused.y1 + j));
        auto possible = (width > V::zero()) & (height > V::zero()) &
                        (width * height > term + loadu<Isa>(fused.term + j));
        for (unsigned open = mask_bits(possible); open != 0; open &= open - 1) {
            std::ptrdiff_t cluster = j + __builtin_ctz(open);
            double iou = overlap_iou<Isa, double>(own, fused[cluster]);
            if (iou > best_iou) {
                best = cluster;
                best_iou = iou;
            }
        }
    }
    return best;
}

template <class Isa>
double fused_confidence(const Clusters<Isa>& clusters, std::ptrdiff_t cluster,
                        const FusionOptions& options, double present_weight) {
    double n = clusters.boxes[cluster];
    double models = static_cast<double>(options.models);
    double mean = clusters.score_sum[cluster] / n;
    switch (options.confidence) {
        case FusedConfidence::max:
            return clusters.score_max[cluster] / options.weight_max;
        case FusedConfidence::box_and_model_avg:
            return mean * n / clusters.weight_sum[cluster] * present_weight / options.weight_sum;
        case FusedConfidence::absent_model_aware_avg:
            return mean * n /
                   (clusters.weight_sum[cluster] + (options.weight_sum - present_weight));
        default:
            return mean * (options.allows_overflow || n < models ? n : models) / options.weight_sum;
    }
}

// Writes fused boxes (rows of four), their scores and classes by descending score, ties by the
// order in which their first members come, and returns how many they are. All inputs have n rows.
template <class Isa>
std::ptrdiff_t weighted_boxes_fusion(double* fused_boxes, double* fused_scores,
                                     std::int64_t* fused_classes, BoxRows<double> boxes,
                                     Strided<double> scores, Strided<std::int64_t> classes,
                                     Strided<std::int64_t> models, const FusionOptions& options) {
    using Entry = Keyed<Isa, std::uint64_t>;
    const std::ptrdiff_t n = boxes.count;
    const std::ptrdiff_t column = round_up<Isa>(8 * n);
    const std::ptrdiff_t entries_size =
        round_up<Isa>(2 * n * static_cast<std::ptrdiff_t>(sizeof(Entry)));
    Workspace<Isa> workspace(SelectedBoxes<Isa, double>::bytes(n) + entries_size +
                             round_up<Isa>(4 * radix_counts<Isa>(n)) + 18 * column +
                             round_up<Isa>(8 * options.models));
    char* memory = workspace.memory;
    auto take = [&](std::ptrdiff_t bytes) {
        char* taken = memory;
        memory += bytes;
        return taken;
    };
    char* selected_memory = take(SelectedBoxes<Isa, double>::bytes(n));
    Entry* entries = reinterpret_cast<Entry*>(take(entries_size));
    std::uint32_t* counts =
        reinterpret_cast<std::uint32_t*>(take(round_up<Isa>(4 * radix_counts<Isa>(n))));
    double* weighted = reinterpret_cast<double*>(take(column));
    std::uint32_t* order = reinterpret_cast<std::uint32_t*>(take(column));
    std::int32_t* previous = reinterpret_cast<std::int32_t*>(take(column));
    double* row_by_rank = reinterpret_cast<double*>(take(4 * column));
    double* score_by_rank = reinterpret_cast<double*>(take(column));
    std::int64_t* class_by_rank = reinterpret_cast<std::int64_t*>(take(column));
    std::int32_t* seen_model =
        reinterpret_cast<std::int32_t*>(take(round_up<Isa>(8 * options.models)));
    Clusters<Isa> clusters = {
        .fused = SelectedBoxes<Isa, double>(selected_memory, 0),
        .corner_sums = reinterpret_cast<double*>(take(4 * column)),
        .score_sum = reinterpret_cast<double*>(take(column)),
        .score_max = reinterpret_cast<double*>(take(column)),
        .weight_sum = reinterpret_cast<double*>(take(column)),
        .boxes = reinterpret_cast<std::int32_t*>(take(column)),
        .last_member = reinterpret_cast<std::int32_t*>(take(column)),
        .first_member = reinterpret_cast<std::uint32_t*>(take(column)),
    };
    const IouTest<double> test = make_iou_test<Isa, double>(options.iou_threshold);
    constexpr double nan = __builtin_nan("");
    constexpr double infinity = __builtin_inf();

    // A weight that is NaN keeps a box out.
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        double score = scores.data[i * scores.stride];
        bool takes_part =
            score >= options.minimum && score < infinity && !inert<Isa>(load_box<Isa>(boxes, i));
        weighted[i] = takes_part ? score * options.weights[models.data[i * models.stride]] : nan;
        score_by_rank[i] = nan;
    }
    const std::ptrdiff_t count =
        descending_order<Isa, double>(order, {weighted, n, 1}, {false, -infinity});
    for (std::ptrdiff_t i = 0; i < count; ++i)
        entries[i] = {static_cast<std::uint64_t>(classes.data[order[i] * classes.stride]),
                      static_cast<std::uint32_t>(i)};
    entries = sort_by_key(entries, entries + n, count, counts);
    for (std::ptrdiff_t m = 0; m < options.models; ++m) seen_model[m] = -1;

    std::int32_t clusters_before = 0;
    for (std::ptrdiff_t begin = 0, end; begin < count; begin = end) {
        end = begin + 1;
        while (end < count && entries[end].key == entries[begin].key) ++end;
        clusters.fused = SelectedBoxes<Isa, double>(selected_memory, end - begin);
        for (std::ptrdiff_t i = begin; i < end; ++i) {
            const std::uint32_t index = order[entries[i].index];
            const Box<double> box = load_box<Isa>(boxes, index);
            const double weight = options.weights[models.data[index * models.stride]];
            const double score = weighted[index];
            std::ptrdiff_t c = best_cluster(clusters, box, test);
            if (c < 0) {
                c = clusters.fused.count;
                clusters.fused.add(box, test_term<Isa>(test, box, 0));
                for (int k = 0; k < 4; ++k) clusters.corner_sums[4 * c + k] = 0;
                clusters.score_sum[c] = clusters.weight_sum[c] = 0;
                clusters.score_max[c] = score;
                clusters.boxes[c] = 0;
                clusters.last_member[c] = -1;
                clusters.first_member[c] = entries[i].index;
            }
            previous[i] = clusters.last_member[c];
            clusters.last_member[c] = static_cast<std::int32_t>(i);
            clusters.weight_sum[c] += weight;
            clusters.score_sum[c] += score;
            double* sums = clusters.corner_sums + 4 * c;
            sums[0] += score * box.x1;
            sums[1] += score * box.y1;
            sums[2] += score * box.x2;
            sums[3] += score * box.y2;
            // The first box stands as it is; so do boxes whose weights are all 0.
            if (clusters.boxes[c]++ == 0 || !(clusters.score_sum[c] > 0)) continue;
            const double total = clusters.score_sum[c];
            const Box<double> fused = {sums[0] / total, sums[1] / total, sums[2] / total,
                                       sums[3] / total};
            clusters.fused.set(c, fused, test_term<Isa>(test, fused, 0));
        }
        for (std::ptrdiff_t c = 0; c < clusters.fused.count; ++c) {
            double present_weight = 0;
            std::int32_t number = clusters_before++;
            for (std::int32_t i = clusters.last_member[c]; i >= 0; i = previous[i]) {
                std::int64_t model = models.data[order[entries[i].index] * models.stride];
                if (seen_model[model] == number) continue;
                seen_model[model] = number;
                present_weight += options.weights[model];
            }
            const std::uint32_t rank = clusters.first_member[c];
            const Corners box = clusters.fused[c];
            double* row = row_by_rank + 4 * static_cast<std::ptrdiff_t>(rank);
            row[0] = box.x1;
            row[1] = box.y1;
            row[2] = box.x2;
            row[3] = box.y2;
            score_by_rank[rank] = fused_confidence(clusters, c, options, present_weight);
            class_by_rank[rank] = static_cast<std::int64_t>(entries[begin].key);
        }
    }

    const std::ptrdiff_t fused_count =
        descending_order<Isa, double>(order, {score_by_rank, count, 1}, {false, -infinity});
    for (std::ptrdiff_t i = 0; i < fused_count; ++i) {
        std::memcpy(fused_boxes + 4 * i, row_by_rank + 4 * static_cast<std::ptrdiff_t>(order[i]),
                    4 * sizeof(double));
        fused_scores[i] = score_by_rank[order[i]];
        fused_classes[i] = class_by_rank[order[i]];
    }
    return fused_count;
}

}  // namespace stableops
