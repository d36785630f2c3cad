#pragma once
// The 2-D poolings: what they compute and how stands in avg_pool2d.h and max_pool2d.h.
#include "avg_pool2d.h"
#include "max_pool2d.h"
#include "max_pool2d_backward.h"
