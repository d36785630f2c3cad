// Threads, memory and SIMD levels as the user sees and sets them.
#include <limits>

#include "../kernels.h"
#include "../runtime/memory.h"
#include "../runtime/parallel.h"
#include "array.h"
#include "families.h"
#include "settings.h"

namespace stableops {

void bind_config(py::module_& m) {
    m.def("active_isa", [] { return active_kernels().level; });
    m.def("available_isas", [] {
        const char* names[8];
        py::list levels;
        for (int i = 0, n = available_levels(names, 8); i < n; ++i) levels.append(names[i]);
        return py::tuple(levels);
    });
    m.def("set_active_isa", [](const std::string& level) {
        if (set_active_level(level.c_str())) return;
        const char* names[8];
        std::string allowed;
        for (int i = 0, n = available_levels(names, 8); i < n; ++i)
            allowed += (i > 0 ? ", " : "") + std::string(names[i]);
        throw py::value_error("level='" + level + "' does not run here; allowed are " + allowed);
    });
    m.def("get_num_threads", [] { return num_threads(); });
    m.def("set_num_threads", [](const py::object& n) {
        if (!PyIndex_Check(n.ptr()) || PyBool_Check(n.ptr()))
            throw py::type_error("n=" + repr_of(n) + " is not allowed; an int is");
        const Py_ssize_t value = whole_number(n);
        if (value < 1 || value > max_threads)
            throw py::value_error("n=" + text_of(n) + " is out of range; allowed are 1 to " +
                                  std::to_string(max_threads));
        set_num_threads(static_cast<int>(value));
    });
    m.def("empty_cache", [] { empty_cache(); });
    m.def("cache_bytes_in_use", [] { return cache_bytes_in_use(); });
    m.def("cache_limit", [] { return cache_limit(); });
#if defined(__clang__)
    m.attr("compiler") = "Clang " __clang_version__;
#else
    m.attr("compiler") = "GCC " __VERSION__;
#endif
    m.attr("version") = STABLEOPS_VERSION;
}

}  // namespace stableops
