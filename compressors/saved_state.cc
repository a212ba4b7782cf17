// The saved form of a list of states, little-endian:
//
//   list  = "HORASLAB" u32 version(3) u64 count *state
//   state = u32 set, text tensor, text chain, i32 rank, i32 size, u64 first, u64 count,
//           u64 step, f32 rate, u32 count *slab
//   slab  = u8 owned, text name, u8 law, u64 count, f32 values[count]
//   text  = u32 bytes, characters

#include "compressors/saved_state.h"

#include <bit>
#include <cstring>
#include <utility>

namespace hora {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr std::string_view kMagic = "HORASLAB";
constexpr uint32_t kVersion = 3;
constexpr uint64_t kMostElements = uint64_t{1} << 48;  // of a tensor

class Writer {
 public:
  template <class Number>
  void number(Number value) {
    raw(&value, sizeof(value));
  }
  void text(std::string_view value) {
    number(static_cast<uint32_t>(value.size()));
    raw(value.data(), value.size());
  }
  void raw(const void* data, size_t bytes) { out_.append(static_cast<const char*>(data), bytes); }
  std::string take() { return std::move(out_); }

 private:
  std::string out_;
};

/// Stays failed after the first read beyond the end.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : left_(bytes) {}
  template <class Number>
  Number number() {
    Number value{};
    raw(&value, sizeof(value));
    return value;
  }
  std::string text() {
    std::string value(claim(number<uint32_t>(), 1), '\0');
    raw(value.data(), value.size());
    return value;
  }
  std::vector<float> floats() {
    std::vector<float> values(claim(number<uint64_t>(), sizeof(float)));
    raw(values.data(), values.size() * sizeof(float));
    return values;
  }
  bool good() const { return good_; }
  bool done() const { return good_ && left_.empty(); }

 private:
  size_t claim(uint64_t count, size_t width) {
    if (count > left_.size() / width) good_ = false;
    return good_ ? static_cast<size_t>(count) : 0;
  }
  void raw(void* to, size_t bytes) {
    if (!good_ || bytes > left_.size()) {
      good_ = false;
      return;
    }
    if (bytes > 0) std::memcpy(to, left_.data(), bytes);
    left_.remove_prefix(bytes);
  }
  std::string_view left_;
  bool good_ = true;
};

SavedSlab read_slab(Reader& in, bool& known) {
  SavedSlab slab;
  slab.owned = in.number<uint8_t>() != 0;
  slab.name = in.text();
  const auto law = in.number<uint8_t>();
  known = known && law <= static_cast<uint8_t>(Law::kScratch);
  slab.law = static_cast<Law>(law);
  slab.values = in.floats();
  return slab;
}

void write_slab(Writer& out, const SavedSlab& slab) {
  out.number(static_cast<uint8_t>(slab.owned));
  out.text(slab.name);
  out.number(static_cast<uint8_t>(slab.law));
  out.number(static_cast<uint64_t>(slab.values.size()));
  out.raw(slab.values.data(), slab.values.size() * sizeof(float));
}

}  // namespace

std::string to_bytes(const std::vector<SavedState>& states) {
  Writer out;
  out.raw(kMagic.data(), kMagic.size());
  out.number(kVersion);
  out.number(static_cast<uint64_t>(states.size()));
  for (const SavedState& state : states) {
    out.number(state.set);
    out.text(state.tensor);
    out.text(state.chain);
    out.number(static_cast<int32_t>(state.rank));
    out.number(static_cast<int32_t>(state.size));
    out.number(state.shard.first);
    out.number(static_cast<uint64_t>(state.shard.count));
    out.number(state.step);
    out.number(state.rate);
    out.number(static_cast<uint32_t>(state.slabs.size()));
    for (const SavedSlab& slab : state.slabs) write_slab(out, slab);
  }
  return out.take();
}

Result<std::vector<SavedState>> from_bytes(std::string_view bytes) {
  const Status corrupt(Code::kCorrupt,
                       "compression memories: the bytes are damaged or of another version");
  if (!bytes.starts_with(kMagic)) return corrupt;
  Reader in(bytes.substr(kMagic.size()));
  if (in.number<uint32_t>() != kVersion) return corrupt;
  std::vector<SavedState> states;
  bool known = true;
  for (uint64_t left = in.number<uint64_t>(); left > 0 && in.good(); --left) {
    SavedState state;
    state.set = in.number<SetId>();
    state.tensor = in.text();
    state.chain = in.text();
    state.rank = in.number<int32_t>();
    state.size = in.number<int32_t>();
    state.shard.first = in.number<uint64_t>();
    state.shard.count = static_cast<size_t>(in.number<uint64_t>());
    known = known && state.rank >= 0 && state.rank < state.size &&
            state.shard.first <= kMostElements && state.shard.count <= kMostElements;
    state.step = in.number<uint64_t>();
    state.rate = in.number<float>();
    for (uint32_t slabs = in.number<uint32_t>(); slabs > 0 && in.good(); --slabs)
      state.slabs.push_back(read_slab(in, known));
    states.push_back(std::move(state));
  }
  if (!in.done() || !known) return corrupt;
  return states;
}

}  // namespace hora
