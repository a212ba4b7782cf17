// `u16` and `u32`: an index as a number.
//
//   u16 = u32 segment_count[ceil(count / 65536)], u16 index[most, padded to 4 bytes]
//   u32 = u32 index[most]
//
// A u16 index is relative to its segment of 65536 elements, so that segments can decode in
// parallel.

#include <algorithm>
#include <cstring>

#include "compressors/stage.h"

namespace hora {
namespace {

constexpr size_t kSegment = 65536;

class U16 final : public IndexCode {
 public:
  size_t bytes(size_t count, size_t most) const override {
    return 4 * segments(count) + (most * 2 + 3) / 4 * 4;
  }

  void write(std::span<const uint32_t> chosen, size_t count, std::byte* to) const override {
    auto* head = reinterpret_cast<uint32_t*>(to);
    auto* index = reinterpret_cast<uint16_t*>(to + 4 * segments(count));
    for (size_t j = 0; j < chosen.size(); ++j) index[j] = static_cast<uint16_t>(chosen[j]);
    auto begin = chosen.begin();
    for (size_t segment = 0; begin != chosen.end(); ++segment) {
      const auto end = std::partition_point(begin, chosen.end(),
                                            [&](uint32_t i) { return i / kSegment == segment; });
      head[segment] = static_cast<uint32_t>(end - begin);
      begin = end;
    }
  }

  bool read(std::span<const std::byte> from, size_t count,
            std::span<uint32_t> chosen) const override {
    const auto* head = reinterpret_cast<const uint32_t*>(from.data());
    const auto* index = reinterpret_cast<const uint16_t*>(from.data() + 4 * segments(count));
    size_t j = 0;
    for (size_t segment = 0; segment < segments(count); ++segment) {
      if (head[segment] > chosen.size() - j) return false;
      for (uint32_t left = head[segment]; left > 0; --left, ++j)
        chosen[j] = static_cast<uint32_t>(segment * kSegment + index[j]);
    }
    return j == chosen.size();
  }

 private:
  static size_t segments(size_t count) { return (count + kSegment - 1) / kSegment; }
};

class U32 final : public IndexCode {
 public:
  size_t bytes(size_t, size_t most) const override { return 4 * most; }
  void write(std::span<const uint32_t> chosen, size_t, std::byte* to) const override {
    if (!chosen.empty()) std::memcpy(to, chosen.data(), chosen.size_bytes());
  }
  bool read(std::span<const std::byte> from, size_t, std::span<uint32_t> chosen) const override {
    if (!chosen.empty()) std::memcpy(chosen.data(), from.data(), chosen.size_bytes());
    return true;
  }
};

const RegisterStage u16({.name = "u16",
                         .order = Order::kIndex,
                         .what = "indices of 16 bits in segments of 65536 elements (the standard)",
                         .code = [](Keys&) { return make_u16(); }});
const RegisterStage u32({.name = "u32",
                         .order = Order::kIndex,
                         .what = "indices of 32 bits",
                         .code = [](Keys&) -> std::unique_ptr<IndexCode> {
                           return std::make_unique<U32>();
                         }});

}  // namespace

std::unique_ptr<IndexCode> make_u16() {
  return std::make_unique<U16>();
}

}  // namespace hora
