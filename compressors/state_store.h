#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "compressors/codec.h"
#include "compressors/saved_state.h"
#include "compressors/stripes.h"
#include "hora/request.h"

namespace hora {

/// What one tensor's compression remembers on one rank.
struct TensorState {
  State mine;         ///< of this rank's own encodings; covers its shard of the tensor
  State owned;        ///< of second encodings, for the elements this rank owns (stripes.h)
  uint64_t step = 0;  ///< exchanges so far; the same on all ranks
  float rate = 0;     ///< the learning rate of the last one; 0: unknown
};

/// How the ranks of a set share a tensor's exchange. Where compression is between hosts only, hosts
/// count as ranks, and those members of them that have the same shard share it.
struct Sharing {
  bool recodes = false;  ///< second encodings need a memory
  int rank = 0, size = 1;
  bool averages = true;  ///< the result is the mean, not the sum
  /// Of the tensor, what these ranks share; members of other shards are of other hosts' columns.
  Shard shard = {};
};

/// All compression state of one rank.
///
/// Ownership: owns the states; references stay good until clear(). Threads: one at a time.
class StateStore {
 public:
  /// The state of `tensor` in process set `set`, made of zeros (or of what was loaded) at first use
  /// and again when the chain or the tensor's extent has changed. When only the sharing changes,
  /// only what this rank owned is reset. Second encodings are `down`'s, or `codec`'s if that is
  /// null; the chain's text names both.
  TensorState& get(SetId set, std::string_view tensor, const Codec& codec, std::string_view chain,
                   const Sharing& sharing, const Codec* down = nullptr);

  /// Root of the sum of squares of all pending slabs: what is still owed to the model, as a metric.
  double owed(SetId set, std::string_view tensor) const;
  /// Calls report(set, tensor, chain, state) for each.
  template <class Report>
  void each(Report report) const {
    for (const auto& [key, entry] : entries_)
      report(key.first, key.second, entry.chain, entry.state);
  }
  /// Sum of magnitudes of pending state that was thrown away by a change.
  double lost() const { return lost_; }

  /// The state of one tensor (nothing if there is none), or of all in the order of sets and names;
  /// without `slabs` only the clocks. Scratch is left out.
  std::vector<SavedState> save(SetId set, std::string_view tensor, bool slabs = true) const;
  std::vector<SavedState> save() const;

  /// Puts state that was saved, by any number of ranks, in the place of what is there. A tensor
  /// that does not exist yet takes it when get() asks for it.
  ///
  /// Rank r of N at that time is succeeded by rank r mod M of M ranks now; a part of somebody else
  /// gives its clock only, which all ranks must agree on, and `ours` says that all parts are this
  /// rank's to take. With rank and size unchanged all comes back to the bit. Otherwise pending
  /// slabs are added up, times M / N where results are means, so that whoever owns what, the sum
  /// or the mean over all ranks stays what it was; what an owner owed becomes pending; replicated
  /// slabs begin anew. Of shards a rank takes the elements of its own. Parts of another chain or
  /// extent, and elements that nobody else will take, are dropped and counted in lost().
  void load(std::vector<SavedState> parts, bool ours = false);

  void remove(SetId set);  ///< the process set is gone
  void clear();

 private:
  struct Entry {
    TensorState state;
    std::string chain;
    Extent extent;
    size_t granule = 1;
    Sharing sharing;
  };
  struct Part {
    SavedState saved;
    bool ours = false;
  };
  using Key = std::pair<SetId, std::string>;
  struct Less {
    using is_transparent = void;
    template <class A, class B>
    bool operator()(const A& a, const B& b) const {
      if (a.first != b.first) return a.first < b.first;
      return std::string_view(a.second) < std::string_view(b.second);
    }
  };

  void forget(const State& state);
  void adopt(Entry& entry, std::vector<Part> parts);
  void restore(Entry& entry, SavedState& part);
  void succeed(Entry& entry, const SavedState& part, bool ours);
  void lose(std::span<const float> values);

  std::map<Key, Entry, Less> entries_;
  std::map<Key, std::vector<Part>, Less> loaded_;
  double lost_ = 0;
};

}  // namespace hora
