#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "compressors/automatic.h"
#include "compressors/chain.h"
#include "ops/exchange_cost.h"

namespace hora {

/// Speeds of the chains of automatic_chains(), in their order.
using CodecSpeeds = std::vector<CodecSpeed>;

/// What a core of a usual machine does, for jobs that have not measured.
CodecSpeeds usual_speeds();

/// Measures all on this core, in about `budget` nanoseconds. Chains that cost too much to be tried
/// so often take longer: 30 ms in all on a usual machine.
CodecSpeeds measure_speeds(const Now& now, int64_t budget);

/// Of each chain the worst of both.
CodecSpeeds slower(const CodecSpeeds& one, const CodecSpeeds& other);

/// `bf16=0.31/0.12/0.2,...`: encode, decode and settle of each chain but none, in nanoseconds for
/// each element, to three digits.
std::string text_of(const CodecSpeeds& speeds);

/// "usual": usual_speeds(), which are also those of chains that the text does not name. Errors:
/// kInvalidArgument shows what was expected.
Result<CodecSpeeds> parse_speeds(std::string_view text);

/// What all ranks of a job know alike, and `auto` goes by.
struct AutoJob {
  Topology topology;
  CodecSpeeds speeds = usual_speeds();
  uint64_t bucket_bytes = 8 << 20;  ///< larger tensors travel in pieces of so many
  uint64_t carry_bytes = 0;         ///< up to this, for all ranks together, nothing is compressed
};

/// Chooses a chain for each tensor by its size: that with the least time by exchange_cost().
///
/// Of the chains within the bound on the error, the most exact one is taken that needs at most 5 %
/// more time than the quickest, and no more than bf16. Going up from small sizes, a chain that
/// still fulfils this is kept (hysteresis): so a model has few chains, and its buckets stay whole.
///
/// A function of its arguments alone, so that all ranks choose alike. Immutable. Threads: any.
class AutoChain {
 public:
  explicit AutoChain(AutoJob job);

  /// The number, of automatic_chains(), of the chain for a tensor of `count` elements of float32,
  /// float16 or bfloat16. `earlier`: that of the chain which it had when the ranks last met, kept
  /// while the bound allows it and it needs at most 20 % more time than what would now be chosen,
  /// which could not take over what it remembers. Costs tens of microseconds: callers keep it.
  size_t choose(size_t count, DType dtype, double error, std::optional<size_t> earlier = {}) const;

  /// The reference lives as long as this.
  const ChainConfig& chain(size_t number) const { return chains_[number]; }

  /// Seconds of the chain with this number, of automatic_chains(), for a tensor.
  double seconds(size_t chain, size_t count, DType dtype) const;

  /// For people: the time of each allowed chain, and the choice, from 1 Ki to 64 Mi elements.
  std::string table(double error) const;

  static constexpr double kSwitch = 1.05;  ///< how much slower than the quickest a choice may be
  static constexpr double kKeep = 1.2;     ///< and than that, what was chosen earlier

 private:
  static constexpr size_t kClasses = 27;  ///< tensors of 2^k elements and more
  using Times = std::vector<double>;
  Times times(size_t count, DType dtype) const;
  bool is_carried(size_t count, DType dtype) const;
  size_t chosen(size_t count, DType dtype, double error, const Times& times) const;
  const std::array<Times, kClasses>& ladder(DType dtype) const;

  const AutoJob job_;
  std::vector<ChainConfig> chains_;
  std::array<Times, kClasses> wide_, narrow_;  ///< by class, of 32 and of 16 bits
};

}  // namespace hora
