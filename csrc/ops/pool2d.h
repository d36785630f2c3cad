#pragma once
// The 2-D poolings: max_pool2d.h and avg_pool2d.h, over the rows of pool2d_rows.h.
#include "avg_pool2d.h"
#include "max_pool2d.h"
