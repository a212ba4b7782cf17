#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "compressors/rules.h"
#include "compressors/state_store.h"
#include "fusion/signature.h"
#include "hora/config.h"
#include "hora/request.h"
#include "hora/status.h"
#include "ops/auto_chain.h"
#include "ops/auto_choices.h"

namespace hora {

/// The exchanges of one tensor on this rank, of one or more slices each, on any lanes. They share
/// what the tensor remembers, so one begins when all slices of the one before have ended. Usually
/// they have, or its caller could not have asked for another; but where this rank has joined, the
/// others may be ahead.
class Exchanges {
 public:
  /// One more slice is to run; `last` of its exchange. Tells which exchange that is.
  uint64_t plan(bool last);
  bool is_turn_of(uint64_t exchange) const { return exchange == ended_; }
  /// A slice has ended. True: and with it its exchange.
  bool end(uint64_t exchange);
  /// Nothing is planned that has not ended.
  bool idle() const { return slices_.empty(); }

 private:
  uint64_t planned_ = 0;          ///< exchanges whose last slice is planned
  uint64_t ended_ = 0;            ///< exchanges
  std::vector<uint32_t> slices_;  ///< planned and not ended, of exchange ended_ and those after it
};

/// One tensor's chain, bound to its shape and to what it remembers.
struct BoundChain {
  std::string name;
  std::string chain;  ///< canonical
  Shape shape;
  std::unique_ptr<Codec> codec, down;  ///< the latter null: as on the way up
  Aggregation how = Aggregation::kDense;
  std::vector<int> degrees;    ///< of a merge
  int ranks = 1, hosts = 1;    ///< of the set
  bool between_hosts = false;  ///< what ranks of a host share travels as it is
  /// The exchanges that the codec is for: a chain that warms up needs others before and after.
  uint64_t from = 0, until = 0;
  Exchanges exchanges;
  std::unique_ptr<BoundChain> earlier;  ///< another that the tensor had, until that is idle

  /// A slice of this exchange may begin.
  bool is_turn_of(uint64_t exchange);
};

/// Which chain a request's tensor travels in, and the state of all chains of one rank.
///
/// Threads: choose() any; the rest the token holder.
class Compression {
 public:
  /// What ranks tell each other for `auto`: how fast this one's codecs are, measured if so set.
  /// Empty if the job's setting has no `auto`. `config` must have passed check_compression().
  static std::string own_speeds(const Config& config, const Now& now);

  /// `config` must have passed check_compression(). `job` and `chosen`, what `auto` chose when
  /// ranks last met, are equal on all ranks; `hosts[r]` is the host of rank r.
  Compression(const Config& config, AutoJob job, std::span<const int> hosts, AutoChoices chosen);

  /// The job's setting is for what travels between hosts, and all ranks are on one.
  bool idle() const { return one_host_ && rules_.chain().between_hosts(); }

  /// Fills `signature.chain` and `.granule`: the request's own setting or the job's. Errors:
  /// kInvalidArgument for a setting that cannot be parsed or does not fit tensor or job. Where it
  /// says `auto` the chain is chosen here, from what all ranks know alike.
  Status choose(const Request& request, Signature& signature);

  /// There is a process set of these ranks now. Any thread; before anybody submits to it.
  void know_set(SetId set, std::span<const Rank> members);

  /// The codec of an agreed operation; made at first use, good until the next bind() of its name
  /// with another signature, and while `exchanges` are under way. `ranks` and `hosts`: how many the
  /// set has.
  BoundChain* bind(SetId set, std::string_view name, const Signature& signature, int ranks,
                   int hosts);

  /// Called when a slice of a tensor's exchange number `step` begins to travel: a chain that warms
  /// up may get another codec. Only then, because a rank that is behind binds an exchange before it
  /// has counted the one before.
  static void begin_exchange(BoundChain& bound, uint64_t step);

  /// The table that the job's `auto` goes by; empty if its setting has none.
  std::string decisions();

  /// What `auto` has chosen, here and before. Any thread.
  AutoChoices choices() const;

  StateStore& states() { return states_; }
  uint64_t seed() const { return seed_; }

 private:
  struct Choice {
    std::string canonical;
    uint32_t granule = 1;
  };
  struct ByTensor {
    using is_transparent = void;
    template <class A, class B>
    bool operator()(const A& a, const B& b) const {
      return a.first != b.first ? a.first < b.first
                                : std::string_view(a.second) < std::string_view(b.second);
    }
  };
  static void make_codec(BoundChain& bound, uint64_t step);
  bool known(const Request& request, Signature& signature);
  Status choose_new(const Request& request, const CompressionRules& rules, Choice& choice);
  std::shared_ptr<const AutoChain> automatic(SetId set);
  size_t choose_automatic(const AutoChain& chooser, const Request& request, double error);

  const uint64_t seed_;
  const AutoJob job_;
  const AutoChoices earlier_;
  const std::vector<int> hosts_;
  const bool one_host_, has_layers_;
  const CompressionRules rules_;  ///< the job's
  const bool always_none_;

  mutable std::mutex mutex_;                                   ///< guards what follows
  AutoChoices choices_;                                        ///< and earlier_
  std::unordered_map<SetId, std::pair<size_t, size_t>> sets_;  ///< hosts, and ranks on each
  std::map<std::pair<size_t, size_t>, std::shared_ptr<const AutoChain>> automatic_;  ///< as wanted
  std::unordered_map<std::string, Choice> chosen_;
  std::string key_;

  StateStore states_;
  std::map<std::pair<SetId, std::string>, std::unique_ptr<BoundChain>, ByTensor> bound_;
};

}  // namespace hora
