#include "ops/auto_choices.h"

#include <algorithm>
#include <charconv>

#include <fmt/format.h>

#include "compressors/automatic.h"
#include "compressors/text.h"

namespace hora {
namespace {

/// Reads a number and the `separator` behind it off the text.
template <class Number>
bool take(std::string_view& text, char separator, Number& number) {
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || rest == end || *rest != separator) return false;
  text.remove_prefix(static_cast<size_t>(rest - text.data()) + 1);
  return true;
}

}  // namespace

std::optional<size_t> AutoChoices::find(const Case& which) const {
  const auto found = chains_.find(which);
  return found == chains_.end() ? std::nullopt : std::optional(found->second);
}

void AutoChoices::note(const Case& which, size_t chain) {
  if (chains_.size() < kMost || chains_.contains(which)) chains_[which] = chain;
}

std::string AutoChoices::text() const {
  std::string text;
  for (const auto& [which, chain] : chains_)
    text += fmt::format("{}{}/{}/{}/{}={}", text.empty() ? "" : ",", which.set, which.error,
                        which.width, which.count, automatic_chains()[chain].name);
  return text;
}

Result<AutoChoices> AutoChoices::parse(std::string_view text) {
  AutoChoices choices;
  if (text.empty()) return choices;
  for (const Fragment& part : split({text, 0}, ',')) {
    Case which;
    std::string_view word = part.text;
    const bool fine = take(word, '/', which.set) && take(word, '/', which.error) &&
                      take(word, '/', which.width) && take(word, '=', which.count);
    const auto chain = automatic_chain_named(word);
    if (!fine || !chain)
      return Status(Code::kCorrupt, fmt::format("no choice of auto: \"{:.100}\"", part.text));
    choices.note(which, *chain);
  }
  return choices;
}

}  // namespace hora
