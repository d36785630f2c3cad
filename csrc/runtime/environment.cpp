#include "environment.h"

#include <charconv>
#include <cstdlib>
#include <limits>
#include <stdexcept>
#include <string>

namespace stableops {

std::optional<std::size_t> environment_number(const char* name, std::size_t minimum) {
    const char* value = std::getenv(name);
    if (value == nullptr || *value == '\0') return std::nullopt;
    const std::string text = value;
    std::size_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    const bool too_large = error == std::errc::result_out_of_range;
    if (too_large) number = std::numeric_limits<std::size_t>::max();
    if ((error != std::errc() && !too_large) || end != text.data() + text.size() ||
        number < minimum) {
        throw std::invalid_argument(std::string(name) + " must be a whole number of at least " +
                                    std::to_string(minimum) + ", got '" + text + "'");
    }
    return number;
}

}  // namespace stableops
