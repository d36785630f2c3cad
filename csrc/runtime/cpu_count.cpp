#include "cpu_count.h"

#include <algorithm>
#include <atomic>
#include <thread>

#if defined(__linux__)
#include <sched.h>

#include <fstream>
#include <sstream>
#include <string>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(_WIN32)
#define NOMINMAX
#define WIN32_LEAN_AND_MEAN
#include <windows.h>

#include <bit>
#endif

namespace stableops {
namespace {

int hardware_cpus() { return std::max(1, static_cast<int>(std::thread::hardware_concurrency())); }

#if defined(__linux__)

// 0 stands for "no limit" below.
int cpus_of_quota(double quota, double period) {
    if (!(quota > 0) || !(period > 0)) return 0;
    return static_cast<int>(std::min(1e6, (quota + period - 1) / period));
}

int quota_v2(const std::string& directory) {
    // "max 100000" without a limit: the number then fails to parse and stays 0.
    double quota = 0;
    double period = 0;
    std::ifstream(directory + "/cpu.max") >> quota >> period;
    return cpus_of_quota(quota, period);
}

int quota_v1(const std::string& directory) {
    double quota = 0;
    double period = 0;
    std::ifstream(directory + "/cpu.cfs_quota_us") >> quota;
    std::ifstream(directory + "/cpu.cfs_period_us") >> period;
    return cpus_of_quota(quota, period);
}

// A limit on any ancestor binds as well. In a container the path may name directories that are
// visible on the host only; those read as "no limit", and the walk ends at the mount's root, which
// is the container's own group.
int smallest_quota(const std::string& mount, std::string path, int (*quota)(const std::string&)) {
    int smallest = 0;
    for (;;) {
        while (!path.empty() && path.back() == '/') path.pop_back();
        const int cpus = quota(mount + path);
        if (cpus > 0 && (smallest == 0 || cpus < smallest)) smallest = cpus;
        if (path.empty()) return smallest;
        path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
    }
}

bool lists_cpu(const std::string& controllers) {
    std::istringstream names(controllers);
    for (std::string name; std::getline(names, name, ',');) {
        if (name == "cpu") return true;
    }
    return false;
}

int cgroup_cpus() {
    int smallest = 0;
    std::ifstream groups("/proc/self/cgroup");
    for (std::string line; std::getline(groups, line);) {
        // hierarchy:controllers:path, and v2 is the hierarchy "0" without controllers.
        const std::size_t first = line.find(':');
        const std::size_t second = line.find(':', first + 1);
        if (first == std::string::npos || second == std::string::npos) continue;
        const std::string controllers = line.substr(first + 1, second - first - 1);
        const std::string path = line.substr(second + 1);
        int cpus = 0;
        if (controllers.empty()) {
            cpus = smallest_quota("/sys/fs/cgroup", path, quota_v2);
        } else if (lists_cpu(controllers)) {
            cpus = smallest_quota("/sys/fs/cgroup/" + controllers, path, quota_v1);
            if (cpus == 0) cpus = smallest_quota("/sys/fs/cgroup/cpu", path, quota_v1);
        }
        if (cpus > 0 && (smallest == 0 || cpus < smallest)) smallest = cpus;
    }
    return smallest;
}

int count_cpus() {
    cpu_set_t mask;
    // Fails on machines with more CPUs than cpu_set_t holds.
    const int in_mask =
        sched_getaffinity(0, sizeof(mask), &mask) == 0 ? CPU_COUNT(&mask) : hardware_cpus();
    const int in_quota = cgroup_cpus();
    return in_quota == 0 ? in_mask : std::min(in_mask, in_quota);
}

#elif defined(__APPLE__)

int count_cpus() {
    int performance_cores = 0;
    std::size_t size = sizeof(performance_cores);
    if (sysctlbyname("hw.perflevel0.logicalcpu", &performance_cores, &size, nullptr, 0) != 0) {
        return hardware_cpus();
    }
    return performance_cores;
}

#elif defined(_WIN32)

int count_cpus() {
    DWORD_PTR of_process = 0;
    DWORD_PTR of_system = 0;
    // The mask is empty where the process spans several processor groups.
    if (!GetProcessAffinityMask(GetCurrentProcess(), &of_process, &of_system) || of_process == 0) {
        return hardware_cpus();
    }
    return std::popcount(static_cast<unsigned long long>(of_process));
}

#else

int count_cpus() { return hardware_cpus(); }

#endif

std::atomic<int> counted = 0;

}  // namespace

int available_cpus() {
    // Two threads may both count, to the same end.
    if (counted.load(std::memory_order_relaxed) == 0) counted = std::max(1, count_cpus());
    return counted.load(std::memory_order_relaxed);
}

}  // namespace stableops
