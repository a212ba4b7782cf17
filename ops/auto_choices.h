#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "hora/request.h"
#include "hora/status.h"

namespace hora {

/// Which chains `auto` has chosen. When ranks meet again rank 0 tells the others what it had chosen
/// before, so that chains, and with them what they remember, outlast small changes of what was
/// measured.
///
///   choices = [ choice *( "," choice ) ]
///   choice  = set "/" error "/" width "/" count "=" word of automatic_chains()
class AutoChoices {
 public:
  /// All that tells one choice of a job from another.
  struct Case {
    SetId set = 0;
    double error = 0;    ///< the bound
    uint32_t width = 4;  ///< bytes of an element
    uint64_t count = 0;  ///< of elements
    friend auto operator<=>(const Case&, const Case&) = default;
  };
  static constexpr size_t kMost = 1000;  ///< more are forgotten: they would be chosen anew

  /// The chain's number, of automatic_chains().
  std::optional<size_t> find(const Case& which) const;
  void note(const Case& which, size_t chain);
  bool empty() const { return chains_.empty(); }

  std::string text() const;
  /// Errors: kCorrupt: no text() of this version.
  static Result<AutoChoices> parse(std::string_view text);

 private:
  std::map<Case, size_t> chains_;
};

}  // namespace hora
