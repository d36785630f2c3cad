#pragma once
// Class indices as labels of a loss.
#include "array.h"

namespace stableops {

// IndexError unless all are in [0, classes) or ignore_index. Labels that were unsigned are out of
// range where they are negative now.
void check_indices(const Array& labels, bool were_unsigned, std::ptrdiff_t classes,
                   std::int64_t ignore_index);

// A contiguous copy, or the array itself.
Array contiguous(const Array& array);

}  // namespace stableops
