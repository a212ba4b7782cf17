#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "compressors/codec.h"
#include "compressors/stage.h"
#include "compressors/text.h"

namespace hora {

/// How a bucket's payloads become a sum on every rank.
enum class Aggregation : uint8_t {
  kDense,   ///< no codec: an allreduce of the values themselves
  kLinear,  ///< payloads are summed as they are, one allreduce for each round
  kRecode,  ///< parts go to their owners, who add them and encode the sum again
  kGather,  ///< everybody gets every payload
  kMerge,   ///< sparse payloads are added up on the way, along a butterfly
  kVote,    ///< as kRecode, but owners count ballots, and what most say is the mean and the sum
};
std::string_view name_of(Aggregation how);

/// One compression setting: `none`, `onebit`, `ef+topk:ratio=1%;agg=gather`.
///
///   setting = section *( ";" section )
///   section = [ "up=" ] chain | "agg=" ( "auto" | "linear" | "recode" | "gather" | "merge" |
///             "vote" )
///           | "link=" ( "all" | "inter" ) | "down=" chain
///   chain   = "none" | "auto" [ ":error=" value ] | item *( "+" item )
///   item    = name [ ":" key "=" value *( "," key "=" value ) ]   ; a stage, or a preset
///
/// `merge` may be `merge:degrees=4x2`: of its butterfly, where so many ranks are 8 (merging.h).
/// Numbers may end in %, k (1024) or M. Presets are expanded, missing keys written out, and a
/// biased chain gets `ef` unless it says `noef`. Stages stand in the order of enum Order; what a
/// preset expands to goes where it belongs, and its memory gives way to one that is there already.
/// `auto` is no chain yet: ops/auto_chain.h chooses one for a tensor. Immutable; copies are deep.
class ChainConfig {
 public:
  ChainConfig() = default;  ///< none

  /// Errors: kInvalidArgument names the character, what is wrong and what was probably meant.
  static Result<ChainConfig> parse(std::string_view text);

  /// The expanded form; parse(canonical()) is the same setting. Ranks compare this text.
  const std::string& canonical() const { return canonical_; }
  std::string_view chain_text() const;  ///< canonical() without its sections
  bool none() const { return items_.empty() && !automatic_; }
  /// `link=inter`: payloads travel between hosts only; inside a host values do, as they are.
  bool between_hosts() const { return between_hosts_; }

  /// For `auto`: the largest relative error that the chain to be chosen may make of a gradient.
  std::optional<double> automatic() const { return automatic_; }

  /// The codec for one tensor after `step` exchanges; not for none() nor automatic(). A chain that
  /// warms up needs another one, with the same state, when `until` of them have been made (~0:
  /// never).
  Result<std::unique_ptr<Codec>> codec(const Extent& extent, uint64_t step = 0,
                                       uint64_t* until = nullptr) const;

  /// What sums are encoded with on their way back in a recode; null: with the chain itself.
  const ChainConfig* down() const { return down_.get(); }

  /// The stages and their keys, in order.
  struct Item {
    std::string name;
    std::map<std::string, std::string> keys;
    size_t at = 0;  ///< where in the text, for messages
  };
  std::span<const Item> items() const { return items_; }

  /// What `agg=` says, or what suits the codec, one of this chain's. Sparse payloads with a memory
  /// are merged by so many `ranks` that gathering would bring more bytes. The tensor does not
  /// matter, since a bucket has several.
  Aggregation aggregation(const Codec& codec, int ranks) const;
  std::span<const int> degrees() const { return degrees_; }  ///< of a merge; empty: as it likes

 private:
  friend class CompressionRules;
  static Result<ChainConfig> parse_sections(const std::vector<Fragment>& sections);
  static Result<ChainConfig> parse_bare(Fragment chain);
  Status parse_chain(std::string_view text, size_t at, bool expanded);
  Status parse_item(std::string_view text, size_t at, bool expanded);
  Status parse_automatic(Fragment text);
  Status place(Item item, bool expanded);
  Status check_aggregation(const Codec& probe) const;
  Status parse_aggregation(std::string_view value, size_t at);
  Status parse_down(Fragment chain);
  Status check_down(const Codec& probe);
  Status parse_section(std::string_view key, std::string_view value, size_t at);
  Status complete();
  void write_canonical();
  /// A rule's chain takes the links of the setting that it stands in.
  void share_link(const ChainConfig& setting) {
    between_hosts_ = setting.between_hosts_;
    write_canonical();
  }

  std::vector<Item> items_;
  std::optional<double> automatic_;
  std::string aggregation_ = "auto";
  bool aggregation_given_ = false, between_hosts_ = false;
  std::vector<int> degrees_;
  std::shared_ptr<const ChainConfig> down_;
  size_t down_at_ = 0;  ///< where in the text, for messages
  std::string canonical_ = "none";
};

}  // namespace hora
