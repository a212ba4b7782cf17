// Compression memories out of a file: whatever a state_dict holds is refused, or means the same
// when it is written and read again; and a store that is given it still works.
#include "compressors/saved_state.h"

#include "compressors/chain.h"
#include "compressors/state_store.h"
#include "tests/fuzz/fuzz.h"

using namespace hora;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  const auto states = from_bytes(fuzz::text(data, bytes));
  if (!states.ok()) {
    FUZZ_CHECK(states.status().code() == Code::kCorrupt);
    return 0;
  }
  const std::string written = to_bytes(states.value());
  const auto again = from_bytes(written);
  FUZZ_CHECK(again.ok() && to_bytes(again.value()) == written);

  StateStore store;
  for (const bool ours : {false, true}) {
    store.load(states.value(), ours);
    for (const SavedState& state : states.value()) {
      const auto chain = ChainConfig::parse(state.chain);
      if (!chain.ok() || chain.value().none()) continue;
      const auto codec = chain.value().codec({7, 4, 5});
      if (!codec.ok()) continue;
      const TensorState& kept =
          store.get(state.set, state.tensor, *codec.value(), state.chain, {true, 0, 2});
      for (const State::Slab& slab : kept.mine.slabs)
        FUZZ_CHECK(slab.values.size() == slab.spec.count);
    }
  }
  return 0;
}
