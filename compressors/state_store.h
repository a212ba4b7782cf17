#pragma once

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "compressors/codec.h"
#include "hora/request.h"

namespace hora {

/// What one tensor's compression remembers on one rank.
struct TensorState {
  State mine;   ///< of this rank's own encodings; covers the whole tensor
  State owned;  ///< of second encodings, for the elements this rank owns in a recode (stripes.h)
};

/// One slab, as it is saved.
struct SavedSlab {
  SetId set = 0;
  std::string tensor;
  std::string chain;  ///< canonical; loaded state is used by the same chain only
  bool owned = false;
  int rank = 0, size = 1;  ///< whose it was
  std::string slab;
  Law law = Law::kPending;
  std::vector<float> values;
};

/// All compression state of one rank.
///
/// Ownership: owns the states; references stay good until clear(). Threads: one at a time.
class StateStore {
 public:
  /// The state of `tensor` in process set `set`, made of zeros (or of what was loaded) at first use
  /// and again when the chain or the tensor's extent has changed. `recodes`: second encodings need
  /// a memory. `rank` and `size` are the set's; when they change, only what this rank owned is
  /// reset.
  TensorState& get(SetId set, std::string_view tensor, const Codec& codec, std::string_view chain,
                   bool recodes, int rank, int size);

  /// Root of the sum of squares of all pending slabs: what is still owed to the model, as a metric.
  double owed(SetId set, std::string_view tensor) const;
  /// Sum of magnitudes of pending state that was thrown away by a change.
  double lost() const { return lost_; }

  /// Every slab but scratch, in the order of sets and names.
  std::vector<SavedSlab> save() const;
  /// Replaces the state of the tensors named. Slabs wait until get() asks for their tensor; those
  /// that do not fit its codec then are dropped and counted in lost(). Errors: kInvalidArgument
  /// when a slab was saved by another rank or size.
  Status load(std::vector<SavedSlab> slabs, int rank, int size);

  void remove(SetId set);  ///< the process set is gone
  void clear();

 private:
  struct Entry {
    TensorState state;
    std::string chain;
    Extent extent;
    bool recodes = false;
    int rank = 0, size = 0;
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
  void adopt(const Key& key, Entry& entry);

  std::map<Key, Entry, Less> entries_;
  std::map<Key, std::vector<SavedSlab>, Less> loaded_;
  double lost_ = 0;
};

/// A list of slabs as bytes, for one opaque entry of a state_dict, and back. Errors: kCorrupt.
std::string to_bytes(const std::vector<SavedSlab>& slabs);
Result<std::vector<SavedSlab>> from_bytes(std::string_view bytes);

}  // namespace hora
