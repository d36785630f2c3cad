#pragma once

namespace stableops {

// CPUs this process may keep busy: its affinity mask, or the CPU quota of its cgroups (v1 and v2,
// rounded up) if that is less; on macOS the performance cores. At least 1, read once.
int available_cpus();

}  // namespace stableops
