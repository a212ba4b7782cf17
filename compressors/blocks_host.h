#pragma once

// The host's drivers of blocks.h. A block is walked in tiles that stay in L1; each step is a plain
// loop over a tile, which the compiler turns into vectors. Everything here lives in a namespace of
// the instruction set it is compiled for.

namespace hora::HORA_ISA {

constexpr uint32_t kTile = 512;  // 16 rows of 32 lanes; 2 KiB

typedef uint16_t __attribute__((may_alias)) HalfWord;

#define HORA_INLINE inline __attribute__((always_inline))
#define HORA_VECTOR _Pragma("GCC ivdep")

template <Mode kMode>
HORA_INLINE void load_tile(const EncodeJob& job, uint64_t at, uint32_t n, float* __restrict p) {
  const float* __restrict g = job.input + at;
  const float* __restrict e = job.residual + at;
  const float gs = job.input_scale, es = job.residual_scale;
  for (uint32_t i = 0; i < n; ++i) p[i] = compensated<kMode>(g, e, gs, es, i);
}

/// Adds a tile to the 32 lanes' sums, word w of lane l in sums[w][l]. Apart from load_tile(), which
/// reads memory strictly in order: striding over DRAM lane by lane halved the speed.
template <class Q>
HORA_INLINE void add_tile(const float* __restrict p, uint32_t n,
                          typename Q::Word (*__restrict sums)[kLanes]) {
  typename Q::Sum s;
  for (uint32_t lane = 0; n == kTile && lane < kLanes; ++lane) {
    for (uint32_t w = 0; w < Q::kSums; ++w) s.word[w] = sums[w][lane];
#pragma GCC unroll 16
    for (uint32_t row = 0; row < kTile / kLanes; ++row) Q::add(s, p[row * kLanes + lane]);
    for (uint32_t w = 0; w < Q::kSums; ++w) sums[w][lane] = s.word[w];
  }
  for (uint32_t i = 0; n < kTile && i < n; ++i) {
    for (uint32_t w = 0; w < Q::kSums; ++w) s.word[w] = sums[w][i % kLanes];
    Q::add(s, p[i]);
    for (uint32_t w = 0; w < Q::kSums; ++w) sums[w][i % kLanes] = s.word[w];
  }
}

template <class Q>
HORA_INLINE typename Q::Sum join_lanes(typename Q::Word (*__restrict sums)[kLanes]) {
  typename Q::Sum a, b;
#pragma GCC unroll 5
  for (uint32_t half = kLanes / 2; half > 0; half /= 2) {
    HORA_VECTOR
    for (uint32_t lane = 0; lane < half; ++lane) {
      for (uint32_t w = 0; w < Q::kSums; ++w)
        a.word[w] = sums[w][lane], b.word[w] = sums[w][lane + half];
      a = Q::join(a, b);
      for (uint32_t w = 0; w < Q::kSums; ++w) sums[w][lane] = a.word[w];
    }
  }
  return a;
}

/// Codes of a tile, and what they leave behind.
template <class Q, bool kKeep>
HORA_INLINE void code_tile(const float* __restrict p, uint32_t n, typename Q::Scale scale, Key key,
                           uint32_t index, typename Q::Code* __restrict codes,
                           float* __restrict residual) {
  for (uint32_t i = 0; i < n; ++i) {
    const uint32_t code = Q::code(p[i], scale, key, index + i);
    codes[i] = static_cast<typename Q::Code>(code);
    if constexpr (kKeep) residual[i] = left_over<Q>(p[i], Q::value(code, scale), residual[i]);
  }
}

/// Packs a tile whose codes beyond n are zero; returns the end of what it wrote.
template <class Q>
HORA_INLINE uint8_t* pack_tile(const typename Q::Code* __restrict codes, uint32_t n,
                               uint8_t* __restrict out) {
  if constexpr (Q::kBits == 16) {
    const uint32_t padded = (n + kLanes - 1) / kLanes * kLanes;
    __builtin_memcpy(out, codes, padded * 2);
    return out + padded * 2;
  } else {
    constexpr uint32_t kRows = 8 / Q::kBits;
    for (uint32_t strip = 0; strip < (n + kRows * kLanes - 1) / (kRows * kLanes); ++strip) {
      const uint8_t* from = codes + strip * kRows * kLanes;
      for (uint32_t lane = 0; lane < kLanes; ++lane) {
        uint8_t byte = from[lane];
#pragma GCC unroll 8
        for (uint32_t k = 1; k < kRows; ++k) {
          byte = static_cast<uint8_t>(
              byte | static_cast<uint8_t>(from[k * kLanes + lane] << (k * Q::kBits)));
        }
        out[strip * kLanes + lane] = byte;
      }
    }
    return out + code_bytes(Q::kBits, n);
  }
}

/// A block. When `kCount` is not 0 it is the block's size, so every loop above has a constant
/// length.
template <class Q, Mode kMode, uint32_t kCount>
uint8_t* encode_block(const EncodeJob& job, float* scales, uint64_t begin, uint32_t count,
                      uint8_t* out) {
  const uint32_t n = kCount ? kCount : count;
  alignas(64) float p[kTile];
  alignas(64) typename Q::Code codes[kTile];
  typename Q::Scale scale{};
  if constexpr (Q::kScales > 0) {
    alignas(64) typename Q::Word sums[Q::kSums][kLanes] = {};
    for (uint32_t at = 0; at < n; at += kTile) {
      const uint32_t m = kCount ? kTile : n - at < kTile ? n - at : kTile;
      load_tile<kMode>(job, begin + at, m, p);
      add_tile<Q>(p, m, sums);
    }
    scale = Q::fit(join_lanes<Q>(sums), n);
    Q::store(scale, scales);
    if (Q::poisoned(scale)) {  // the residual stays as it was
      __builtin_memset(out, 0, code_bytes(Q::kBits, n));
      return out + code_bytes(Q::kBits, n);
    }
  }
  const Key key = key_at(job.key, job.first + begin);
  for (uint32_t at = 0; at < n; at += kTile) {
    const uint32_t m = kCount ? kTile : n - at < kTile ? n - at : kTile;
    if (Q::kScales == 0 || n > kTile) load_tile<kMode>(job, begin + at, m, p);
    float* residual = kMode == Mode::kPlain ? nullptr : job.residual + begin + at;
    const auto index = static_cast<uint32_t>(job.first + begin + at);
    if constexpr (Q::kBits == 8) {  // a code is a byte of the payload already
      if (m == kTile) {
        code_tile<Q, kMode != Mode::kPlain>(p, kTile, scale, key, index, out, residual);
        out += kTile;
        continue;
      }
    }
    if (m < kTile) __builtin_memset(codes, 0, sizeof(codes));
    code_tile<Q, kMode != Mode::kPlain>(p, m, scale, key, index, codes, residual);
    out = pack_tile<Q>(codes, m, out);
  }
  return out;
}

template <class Q, Mode kMode>
void encode_blocks(const EncodeJob& job) {
  uint8_t* codes = job.codes;
  float* scales = job.scales;
  for (uint64_t begin = 0; begin < job.count; begin += job.bucket, scales += Q::kScales) {
    const uint64_t left = job.count - begin;
    const auto n = static_cast<uint32_t>(left < job.bucket ? left : job.bucket);
    codes = n == kTile ? encode_block<Q, kMode, kTile>(job, scales, begin, n, codes)
                       : encode_block<Q, kMode, 0>(job, scales, begin, n, codes);
  }
}

template <class Q>
void encode(const EncodeJob& job, void*) {
  if (job.mode == Mode::kPlain) return encode_blocks<Q, Mode::kPlain>(job);
  if (job.mode == Mode::kHeld) return encode_blocks<Q, Mode::kHeld>(job);
  encode_blocks<Q, Mode::kFeedback>(job);
}

template <class Q, bool kOverwrite>
inline void decode_block(const uint8_t* __restrict codes, typename Q::Scale scale, float mean,
                         uint32_t n, float* __restrict sum) {
  if constexpr (Q::kBits == 16) {
    const auto* __restrict halves = reinterpret_cast<const HalfWord*>(codes);
    for (uint32_t i = 0; i < n; ++i) {
      const float value = mean * Q::value(halves[i], scale);
      sum[i] = kOverwrite ? value : sum[i] + value;
    }
    return;
  }
  constexpr uint32_t kRows = Q::kBits == 16 ? 1 : 8 / Q::kBits;
  const uint32_t whole = n / (kRows * kLanes) * kRows;
  for (uint32_t row = 0; row < whole; row += kRows) {
    HORA_VECTOR
    for (uint32_t lane = 0; lane < kLanes; ++lane) {
      HORA_UNROLL
      for (uint32_t k = 0; k < kRows; ++k) {
        const float value = mean * lane_value<Q>(codes, scale, row + k, lane);
        float& out = sum[(row + k) * kLanes + lane];
        out = kOverwrite ? value : out + value;
      }
    }
  }
  for (uint32_t i = whole * kLanes; i < n; ++i) {
    const float value = mean * lane_value<Q>(codes, scale, i / kLanes, i % kLanes);
    sum[i] = kOverwrite ? value : sum[i] + value;
  }
}

template <class Q>
void decode(const DecodeJob& job, void*) {
  const uint8_t* codes = job.codes;
  uint64_t block = 0;
  for (uint64_t begin = 0; begin < job.count; begin += job.bucket, ++block) {
    const uint64_t left = job.count - begin;
    const auto n = static_cast<uint32_t>(left < job.bucket ? left : job.bucket);
    const typename Q::Scale scale = Q::load(job.scales + block * Q::kScales);
    if (job.overwrite)
      decode_block<Q, true>(codes, scale, job.scale, n, job.sum + begin);
    else
      decode_block<Q, false>(codes, scale, job.scale, n, job.sum + begin);
    codes += code_bytes(Q::kBits, n);
  }
}

}  // namespace hora::HORA_ISA
