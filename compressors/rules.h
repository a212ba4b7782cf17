#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "compressors/chain.h"

namespace hora {

/// The whole compression setting of a job: a chain, and rules for tensors that get another one.
///
///   setting   = chain setting (chain.h) *( ";rule=" condition "->" chain )
///   condition = ( "dim" | "size" | "numel" ) ( "<" | "<=" | ">" | ">=" | "=" ) number
///             | "glob" [ ":" ] pattern               ; * and ?, on the tensor's name
///
/// The first rule that matches decides. float64 and integers always travel as they are. Immutable.
class CompressionRules {
 public:
  /// Errors: kInvalidArgument names the character, what is wrong and what was probably meant.
  static Result<CompressionRules> parse(std::string_view text);

  CompressionRules() = default;  ///< none for all
  explicit CompressionRules(ChainConfig chain) : chain_(std::move(chain)) {}

  /// What tensor `name` gets. The reference lives as long as the rules. Costs a few comparisons:
  /// callers keep it for each plan.
  const ChainConfig& for_tensor(std::string_view name, const Shape& shape, DType dtype) const;

  const ChainConfig& chain() const { return chain_; }
  /// The bound of the chain, or of the first rule that has one, if any is `auto`.
  std::optional<double> automatic() const;
  std::string canonical() const;  ///< parse_rules(canonical()) is the same setting

 private:
  struct Rule {
    enum class On : uint8_t { kDim, kSize, kGlob } on = On::kGlob;
    std::string relation;  ///< "<", "<=", ...
    int64_t bound = 0;
    std::string pattern;
    ChainConfig chain;
    bool matches(std::string_view name, const Shape& shape) const;
  };
  static Result<Rule> parse_rule(std::string_view text, size_t at);

  ChainConfig chain_;
  std::vector<Rule> rules_;
};

/// The first word of a setting that stands in the place of a stage or preset and is none, if a
/// program may add one of that name (hora.compression.register). Empty: there is no such word.
std::string_view unknown_stage(std::string_view setting);

/// CompressionRules::parse.
Result<CompressionRules> parse_rules(std::string_view text);

}  // namespace hora
