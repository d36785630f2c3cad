#pragma once

#include <cstddef>
#include <optional>

namespace stableops {

// The whole number in environment variable `name`, nothing if it is unset or empty. Numbers beyond
// std::size_t saturate, since every user clamps. Throws std::invalid_argument, whose text names the
// variable and what it holds, for anything else and for numbers below `minimum`.
std::optional<std::size_t> environment_number(const char* name, std::size_t minimum);

}  // namespace stableops
