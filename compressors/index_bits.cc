// `bitmap`, `golomb` and `elias`: an index takes as many bits as it is worth.
//
// A bitmap has a bit for each element. The others write the gaps between indices, counted from 0:
//   golomb = a gap's upper part in unary (ones, then a zero), then its `k` lower bits: Golomb-Rice
//   elias  = the gap plus 1 as n zeros, then its n + 1 bits from the highest down: Elias' gamma
//
// The room must suffice for every choice, and depends on counts alone. With m indices the gaps g
// add up to count - m at most. Golomb: sum of (g >> k) + 1 + k bits is at most (count - m) / 2^k +
// m (k + 1). Elias: len(x) = 2 floor(log2 x) + 1 of x = g + 1 lies below the line through its steps
// at powers of two, (2^j, 2 j + 1), a concave function, so the sum is at most m times that function
// of the mean, which is count / m: m (2 j + 1) + 2 (count / 2^j - m) bits, j = floor(log2(count /
// m)). That grows with m up to count / 2; beyond, more indices take less.

#include <algorithm>
#include <bit>
#include <cstring>

#include "compressors/stage.h"

namespace hora {
namespace {

/// The bits from the highest down.
uint32_t reversed(uint32_t bits) {
  bits = (bits >> 1 & 0x55555555u) | (bits & 0x55555555u) << 1;
  bits = (bits >> 2 & 0x33333333u) | (bits & 0x33333333u) << 2;
  bits = (bits >> 4 & 0x0F0F0F0Fu) | (bits & 0x0F0F0F0Fu) << 4;
  return __builtin_bswap32(bits);
}

/// Bits of a byte from the lowest up; a number from its highest bit down. Writes whole words, the
/// last one in end().
class BitWriter {
 public:
  explicit BitWriter(std::byte* to) : to_(to) {}
  /// `count` bits that are all the same, at most 32.
  void repeat(bool bit, uint32_t count) { append(bit ? (uint64_t{1} << count) - 1 : 0, count); }
  void put(uint32_t value, uint32_t bits) {
    append(uint64_t{reversed(value)} >> (32 - bits), bits);
  }
  void end() {
    if (held_ > 0) store();
  }

 private:
  static constexpr uint32_t kWord = 32;

  void append(uint64_t bits, uint32_t count) {
    word_ |= bits << held_;
    held_ += count;
    if (held_ < kWord) return;
    store();
    word_ >>= kWord;
    held_ -= kWord;
  }
  void store() {
    std::memcpy(to_, &word_, kWord / 8);
    to_ += kWord / 8;
  }

  std::byte* to_;
  uint64_t word_ = 0;
  uint32_t held_ = 0;  // bits of `word_`, less than a word between calls
};

/// Zeros beyond the end; over() says that somebody looked there.
class BitReader {
 public:
  explicit BitReader(std::span<const std::byte> from) : from_(from) {}
  /// How often `bit` comes before the other one, which is passed as well; at the end, any number.
  uint64_t run(bool bit) {
    uint64_t all = 0;
    while (!over()) {
      const uint64_t ahead = look();
      const auto here = static_cast<uint32_t>(std::countr_zero(bit ? ~ahead : ahead));
      if (here < kSure) {
        at_ += here + 1;
        return all + here;
      }
      at_ += kSure;
      all += kSure;
    }
    return all;
  }
  uint32_t get(uint32_t bits) {
    const uint64_t value = uint64_t{reversed(static_cast<uint32_t>(look()))} >> (32 - bits);
    at_ += bits;
    return static_cast<uint32_t>(value);
  }
  bool over() const { return at_ > 8 * from_.size(); }

 private:
  static constexpr uint32_t kSure = 57;  // of 64 bits that begin at a byte

  uint64_t look() const {
    uint64_t word = 0;
    const size_t byte = at_ / 8;
    if (byte + sizeof(word) <= from_.size())
      std::memcpy(&word, from_.data() + byte, sizeof(word));
    else if (byte < from_.size())
      std::memcpy(&word, from_.data() + byte, from_.size() - byte);
    return word >> (at_ % 8);
  }

  std::span<const std::byte> from_;
  size_t at_ = 0;
};

size_t words(size_t bits) {
  return (bits + 31) / 32 * 4;
}

class Bitmap final : public IndexCode {
 public:
  size_t bytes(size_t count, size_t) const override { return words(count); }
  void write(std::span<const uint32_t> chosen, size_t, std::byte* to) const override {
    for (const uint32_t i : chosen) to[i / 8] |= std::byte{1} << (i % 8);
  }
  bool read(std::span<const std::byte> from, size_t count,
            std::span<uint32_t> chosen) const override {
    size_t j = 0;
    for (size_t i = 0; i < count; i += 8) {
      for (auto byte = std::to_integer<uint32_t>(from[i / 8]); byte != 0; byte &= byte - 1) {
        if (j == chosen.size()) return false;
        chosen[j++] = static_cast<uint32_t>(i) + static_cast<uint32_t>(std::countr_zero(byte));
      }
    }
    return j == chosen.size();
  }
};

/// What golomb and elias share: gaps.
template <class Gap>
class Gaps final : public IndexCode {
 public:
  explicit Gaps(Gap gap) : gap_(gap) {}
  size_t bytes(size_t count, size_t most) const override {
    return most == 0 ? 0 : words(gap_.bits(count, most));
  }
  void write(std::span<const uint32_t> chosen, size_t count, std::byte* to) const override {
    BitWriter out(to);
    uint32_t next = 0;
    for (const uint32_t i : chosen) {
      gap_.write(out, i - next, count);
      next = i + 1;
    }
    out.end();
  }
  bool read(std::span<const std::byte> from, size_t count,
            std::span<uint32_t> chosen) const override {
    BitReader in(from);
    uint64_t next = 0;
    for (uint32_t& i : chosen) {
      const uint64_t index = next + gap_.read(in, count);
      if (in.over() || index >= count) return false;
      i = static_cast<uint32_t>(index);
      next = index + 1;
    }
    return true;
  }

 private:
  const Gap gap_;
};

struct Rice {
  int low;
  size_t bits(size_t count, size_t most) const {
    return ((count - most) >> low) + most * static_cast<size_t>(low + 1);
  }
  void write(BitWriter& out, uint32_t gap, size_t) const {
    uint32_t ones = gap >> low;
    for (; ones >= 32; ones -= 32) out.repeat(true, 32);
    out.repeat(true, ones);
    out.repeat(false, 1);
    out.put(gap, static_cast<uint32_t>(low));
  }
  uint64_t read(BitReader& in, size_t) const {
    const uint64_t ones = in.run(true);
    return ones << low | in.get(static_cast<uint32_t>(low));
  }
};

struct Elias {
  size_t bits(size_t count, size_t most) const {
    const size_t m = std::min(most, std::max<size_t>(1, count / 2));
    const auto j = static_cast<size_t>(std::bit_width(count / m)) - 1;
    return m * (2 * j + 1) + 2 * ((count >> j) + 1 - m);
  }
  void write(BitWriter& out, uint32_t gap, size_t) const {
    const auto width = static_cast<uint32_t>(std::bit_width(gap + 1));
    out.repeat(false, width - 1);
    out.put(gap + 1, width);
  }
  uint64_t read(BitReader& in, size_t) const {
    // More zeros than a number of 32 bits has are the end, or nothing that write() wrote.
    const uint64_t zeros = in.run(false);
    if (zeros > 31) return ~uint64_t{0} >> 1;
    return ((uint64_t{1} << zeros) | in.get(static_cast<uint32_t>(zeros))) - 1;
  }
};

const RegisterStage bitmap({.name = "bitmap",
                            .order = Order::kIndex,
                            .what = "a bit for each element: best when more than 1 in 16 is sent",
                            .code = [](Keys&) -> std::unique_ptr<IndexCode> {
                              return std::make_unique<Bitmap>();
                            }});
const RegisterStage golomb(
    {.name = "golomb",
     .order = Order::kIndex,
     .what = "gaps by Golomb-Rice: about 12 bits an index at 0.1 %",
     .keys = {{"k", "9", "0 to 30: bits sent as they are; best at log2(0.7 / share sent)"}},
     .code = [](Keys& keys) -> std::unique_ptr<IndexCode> {
       return std::make_unique<Gaps<Rice>>(Rice{static_cast<int>(keys.count("k", 0, 30))});
     }});
const RegisterStage elias({.name = "elias",
                           .order = Order::kIndex,
                           .what = "gaps by Elias' gamma code: no parameter",
                           .code = [](Keys&) -> std::unique_ptr<IndexCode> {
                             return std::make_unique<Gaps<Elias>>(Elias{});
                           }});

}  // namespace
}  // namespace hora
