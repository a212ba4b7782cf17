// `lossless`: floats to the bit, in fewer bits: sign and mantissa as they are, and the exponent by
// how common it is in its block, for gradients have few exponents.
//
// Gradients like normal numbers need about 27 of 32 bits. A payload is as long as it needs to be;
// but with a `room` below 1, which is a share of the floats' bytes, it always has just that size. A
// block that does not fit loses the last bits of its mantissas, as few as possible and never more
// than bfloat16 does; they stay in the memory, to the bit.
//
//   payload = block after block of 4096 elements, then zeros up to its room if that is below 1
//   block   = u32 bytes of this block, u8 kind
//   kind 0: the floats
//   kind 1: u16 symbols, u16 mantissa, u16 symbol[symbols], the most common first, then for each
//           element Elias' gamma code of its symbol's place, counted from 1, and unless it is +0
//           the sign and the upper `mantissa` bits of the mantissa
//   kind 2: the upper halves of the floats
//   symbol: an exponent, or 256: +0

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include <fmt/format.h>

#include "compressors/stage.h"

namespace hora {
namespace {

constexpr size_t kBlock = 4096, kHead = 5, kCodedHead = 4, kSymbols = 257, kZero = 256;
constexpr int kMantissa = 23, kHalfMantissa = 7;
enum Kind : uint8_t { kFloats, kCoded, kHalves };

uint32_t symbol_of(uint32_t bits) {
  return bits == 0 ? kZero : bits >> 23 & 0xFF;
}

/// The number without its last `dropped` bits; a NaN stays one.
uint32_t shortened(uint32_t bits, int dropped) {
  const bool nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
  return (bits | (nan ? 0x400000u : 0u)) >> dropped << dropped;
}

/// Bits from the highest of each byte down.
class BitWriter {
 public:
  explicit BitWriter(uint8_t* to) : to_(to) {}
  void put(uint32_t value, int bits) {
    held_ = held_ << bits | value;
    count_ += bits;
    for (; count_ >= 8; count_ -= 8) *to_++ = static_cast<uint8_t>(held_ >> (count_ - 8));
  }
  uint8_t* end() {
    if (count_ > 0) *to_++ = static_cast<uint8_t>(held_ << (8 - count_));
    return to_;
  }

 private:
  uint8_t* to_;
  uint64_t held_ = 0;
  int count_ = 0;
};

/// Zeros beyond the end.
class BitReader {
 public:
  BitReader(const uint8_t* from, const uint8_t* end) : from_(from), end_(end) {}

  /// Elias' gamma code of a place; 0 for what is none. At least 40 bits can be taken after it.
  uint32_t gamma() {
    for (; count_ <= 56 && from_ < end_; count_ += 8) held_ |= uint64_t{*from_++} << (56 - count_);
    const int zeros = std::countl_zero(held_);
    return zeros > 8 ? 0 : take(2 * zeros + 1);
  }
  uint32_t take(int bits) {
    const auto value = static_cast<uint32_t>(held_ >> (64 - bits));
    held_ <<= bits;
    count_ -= bits;
    return value;
  }
  bool at_end() const { return from_ == end_ && count_ >= 0 && count_ < 8; }

 private:
  const uint8_t *from_, *end_;
  uint64_t held_ = 0;
  int count_ = 0;
};

/// Symbols in the order of how often they occur, ties to the smaller one.
struct Ranking {
  uint16_t order[kSymbols];
  uint16_t place[kSymbols];
  size_t used = 0, zeros = 0, code_bits = 0;

  Ranking(const uint32_t* bits, size_t n) {
    uint32_t counts[kSymbols] = {};
    for (size_t i = 0; i < n; ++i) ++counts[symbol_of(bits[i])];
    for (uint16_t s = 0; s < kSymbols; ++s) {
      if (counts[s] > 0) order[used++] = s;
    }
    std::sort(order, order + used, [&](uint16_t a, uint16_t b) {
      return counts[a] != counts[b] ? counts[a] > counts[b] : a < b;
    });
    for (uint16_t r = 0; r < used; ++r) {
      place[order[r]] = r;
      code_bits += counts[order[r]] * (2 * static_cast<size_t>(std::bit_width(r + 1u)) - 1);
    }
    zeros = counts[kZero];
  }
};

/// How a block of n elements is sent in `room` bytes behind its head.
struct Form {
  Kind kind = kFloats;
  int mantissa = kMantissa;
  size_t bytes = 0;

  Form(const Ranking& ranking, size_t n, size_t room) {
    const size_t fixed = 8 * (kCodedHead + 2 * ranking.used) + ranking.code_bits;
    const size_t numbers = n - ranking.zeros, bits = 8 * std::min(room, 4 * n);
    while (mantissa >= kHalfMantissa && fixed + numbers * coded_bits() > bits) --mantissa;
    bytes = (fixed + numbers * coded_bits() + 7) / 8;
    kind = kCoded;
    if (mantissa == kMantissa && bytes < 4 * n) return;
    if (room >= 4 * n) {
      kind = kFloats, mantissa = kMantissa, bytes = 4 * n;
    } else if (mantissa <= kHalfMantissa) {
      kind = kHalves, mantissa = kHalfMantissa, bytes = 2 * n;
    }
  }
  size_t coded_bits() const { return static_cast<size_t>(mantissa) + 1; }
  int dropped() const { return kMantissa - mantissa; }
};

class Lossless final : public Codec {
 public:
  Lossless(double room, const Binding& binding)
      : Codec(binding.extent), room_(room), memory_(binding.memory) {}

  Traits traits() const override {
    return {.unbiased = room_ == 1,
            .contractive = true,
            .exact_values = true,
            .conserves = memory_.conserves(),
            .varies = varies()};
  }
  size_t granule() const override { return kBlock; }
  size_t payload_bytes(size_t count) const override {
    const size_t rest = count % kBlock;
    return count / kBlock * (kHead + room_of(kBlock)) + (rest ? kHead + room_of(rest) : 0);
  }
  size_t used_bytes(std::span<const std::byte> payload, size_t count) const override {
    if (!varies()) return payload.size();
    size_t used = 0;
    for (size_t begin = 0; begin < count; begin += kBlock) {
      uint32_t bytes = 0;
      if (payload.size() - used < kHead) return payload.size();
      std::memcpy(&bytes, payload.data() + used, sizeof(bytes));
      used += std::min<size_t>(bytes, payload.size() - used);
    }
    return used;
  }
  std::vector<SlabSpec> slabs(size_t count) const override { return memory_.slabs(count); }

  void encode(const Turn& turn, const Piece& piece, State& state,
              std::byte* payload) const override {
    if (piece.count == 0) return;
    const Source source = source_of(turn, piece, state, memory_);
    auto* to = reinterpret_cast<uint8_t*>(payload);
    uint8_t* const end = to + payload_bytes(piece.count);
    uint32_t bits[kBlock];
    for (size_t begin = 0; begin < piece.count; begin += kBlock) {
      const size_t n = std::min(kBlock, piece.count - begin);
      for (size_t i = 0; i < n; ++i) bits[i] = bits_of(source[begin + i]);
      const Ranking ranking(bits, n);
      const Form form(ranking, n, room_of(n));
      if (source.residual) keep(bits, n, form.dropped(), source.residual + begin);
      to = write_block(bits, n, ranking, form, to);
    }
    if (!varies()) std::memset(to, 0, static_cast<size_t>(end - to));
  }

  Status decode_add(const Turn& turn, std::span<const std::byte> payload, uint64_t,
                    std::span<float> sum, float scale) const override {
    const auto corrupt = [&] {
      return Status(Code::kCorrupt, fmt::format("lossless: {} bytes are no {} elements",
                                                payload.size(), sum.size()));
    };
    const size_t most = payload_bytes(sum.size());
    if (varies() ? payload.size() > most : payload.size() != most) return corrupt();
    float* decoded = turn.workspace.floats(Workspace::kDecoded, sum.size() + 1);
    const auto* from = reinterpret_cast<const uint8_t*>(payload.data());
    const uint8_t* const end = from + payload.size();
    for (size_t begin = 0; begin < sum.size(); begin += kBlock) {
      const size_t n = std::min(kBlock, sum.size() - begin);
      uint32_t bytes;
      if (static_cast<size_t>(end - from) < kHead) return corrupt();
      std::memcpy(&bytes, from, sizeof(bytes));
      if (bytes < kHead || bytes > static_cast<size_t>(end - from)) return corrupt();
      if (!read_block(from[4], from + kHead, from + bytes, n, decoded + begin)) return corrupt();
      from += bytes;
    }
    if (varies() && from != end) return corrupt();
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += scale * decoded[i];
    return {};
  }

 private:
  bool varies() const { return room_ == 1; }

  size_t room_of(size_t n) const {
    return static_cast<size_t>(std::ceil(room_ * 4 * static_cast<double>(n)));
  }

  /// What is not sent; where there is no number, what was owed stays owed.
  static void keep(const uint32_t* bits, size_t n, int dropped, float* residual) {
    for (size_t i = 0; i < n; ++i) {
      const float p = float_of(bits[i]);
      if (is_finite(p)) residual[i] = p - float_of(shortened(bits[i], dropped));
    }
  }

  static uint8_t* write_block(const uint32_t* bits, size_t n, const Ranking& ranking,
                              const Form& form, uint8_t* to) {
    const auto bytes = static_cast<uint32_t>(kHead + form.bytes);
    std::memcpy(to, &bytes, sizeof(bytes));
    to[4] = form.kind;
    to += kHead;
    uint8_t* const end = to + form.bytes;
    const int dropped = form.dropped();
    if (form.kind == kFloats) std::memcpy(to, bits, 4 * n);
    for (size_t i = 0; form.kind == kHalves && i < n; ++i) {
      const auto half = static_cast<uint16_t>(shortened(bits[i], dropped) >> 16);
      std::memcpy(to + 2 * i, &half, sizeof(half));
    }
    if (form.kind != kCoded) return end;
    const uint16_t head[] = {static_cast<uint16_t>(ranking.used),
                             static_cast<uint16_t>(form.mantissa)};
    std::memcpy(to, head, kCodedHead);
    std::memcpy(to + kCodedHead, ranking.order, 2 * ranking.used);
    BitWriter out(to + kCodedHead + 2 * ranking.used);
    for (size_t i = 0; i < n; ++i) {
      const uint32_t place = ranking.place[symbol_of(bits[i])] + 1u;
      out.put(place, 2 * std::bit_width(place) - 1);  // leading zeros are part of the width
      if (bits[i] == 0) continue;
      const uint32_t mantissa = shortened(bits[i], dropped) & 0x7FFFFFu;
      out.put((mantissa | bits[i] >> 31 << 23) >> dropped, form.mantissa + 1);
    }
    HORA_CHECK(out.end() == end, "a block is as long as its head says");
    return end;
  }

  static bool read_block(uint8_t kind, const uint8_t* from, const uint8_t* end, size_t n,
                         float* to) {
    const auto left = static_cast<size_t>(end - from);
    if (kind == kFloats) {
      if (left == 4 * n) std::memcpy(to, from, 4 * n);
      return left == 4 * n;
    }
    if (kind == kHalves) {
      for (size_t i = 0; left == 2 * n && i < n; ++i)
        to[i] = float_of(static_cast<uint32_t>(from[2 * i] | from[2 * i + 1] << 8) << 16);
      return left == 2 * n;
    }
    uint16_t head[2], order[kSymbols];
    if (kind != kCoded || left < kCodedHead) return false;
    std::memcpy(head, from, kCodedHead);
    const size_t symbols = head[0];
    const int mantissa = head[1];
    if (symbols > kSymbols || mantissa > kMantissa || left < kCodedHead + 2 * symbols) return false;
    std::memcpy(order, from + kCodedHead, 2 * symbols);
    BitReader in(from + kCodedHead + 2 * symbols, end);
    for (size_t i = 0; i < n; ++i) {
      const uint32_t place = in.gamma();
      if (place == 0 || place > symbols || order[place - 1] > kZero) return false;
      const uint32_t symbol = order[place - 1];
      to[i] = 0;
      if (symbol == kZero) continue;
      const uint32_t low = in.take(mantissa + 1) << (kMantissa - mantissa);
      to[i] = float_of((low & 0x7FFFFFu) | symbol << 23 | low >> 23 << 31);
    }
    return in.at_end();
  }

  const double room_;
  const Memory memory_;
};

std::unique_ptr<Codec> make(Keys& keys, Binding& binding) {
  const double room = keys.number("room", 0.5, 1);
  if (!keys.refused().empty()) return nullptr;
  return std::make_unique<Lossless>(room, binding);
}

const RegisterStage lossless(
    {.name = "lossless",
     .order = Order::kQuantize,
     .what = "floats to the bit: exponents by how common they are",
     .keys = {{"room", "1",
               "1: as many bytes as it takes; 0.5 to 1: just this share of the floats' bytes, and "
               "what does not fit is cut off and stays in the memory"}},
     .make = make});

}  // namespace
}  // namespace hora
