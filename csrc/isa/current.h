#pragma once
// The level that this object is compiled for: STABLEOPS_ISA names a tag of levels.h (CMakeLists.txt
// compiles each isa/<family>.cpp once a level).
#include "levels.h"

namespace stableops::isa {

using Current = STABLEOPS_ISA;

}  // namespace stableops::isa
