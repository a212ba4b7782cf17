#pragma once

#include <cstdint>
#include <string>

#include <nlohmann/json.hpp>

namespace hora {

/// A field of a JSON object that may be absent or of another type: then it is as good as not told,
/// since a file may be of another version or somebody else's.
inline std::string text_in(const nlohmann::json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

/// The same for an integer; 0 if it is none.
template <class Number>
Number number_in(const nlohmann::json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number_integer() ? found->get<Number>() : Number{0};
}

}  // namespace hora
