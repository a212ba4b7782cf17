#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "compressors/codec.h"
#include "compressors/stripes.h"
#include "hora/request.h"

namespace hora {

/// One slab, as it is saved.
struct SavedSlab {
  bool owned = false;  ///< of second encodings
  std::string name;
  Law law = Law::kPending;
  std::vector<float> values;
};

/// What one rank remembers of one tensor, as it is saved. Without slabs it is a clock.
struct SavedState {
  SetId set = 0;
  std::string tensor;
  std::string chain;       ///< canonical; taken by the same chain only
  int rank = 0, size = 1;  ///< whose it was, among those who shared the exchange
  Shard shard;             ///< of the tensor: what they shared
  uint64_t step = 0;
  float rate = 0;
  std::vector<SavedSlab> slabs;
};

/// A list of states as bytes, for one opaque entry of a state_dict, and back. Errors: kCorrupt.
std::string to_bytes(const std::vector<SavedState>& states);
Result<std::vector<SavedState>> from_bytes(std::string_view bytes);

}  // namespace hora
