#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string_view>

namespace hora {

/// A chain that the setting `auto` may choose.
struct AutomaticChain {
  const char* name;   ///< a word for tables and settings
  const char* chain;  ///< as one would write it
  double error;       ///< |x - decode(encode(x))| / |x| of normal numbers, rounded up
};

/// The most exact first, which is `none`. All but bf16 remember what they did not send.
std::span<const AutomaticChain> automatic_chains();

/// The number of the chain with this name.
std::optional<size_t> automatic_chain_named(std::string_view name);

/// `auto` stands for `auto:error=0.7`: down to one bit for each element, but no selection.
inline constexpr const char* kAutomaticError = "0.7";

}  // namespace hora
