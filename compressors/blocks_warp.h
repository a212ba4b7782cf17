#pragma once

// The CUDA driver's steps on the host, lane after lane: what a machine without a GPU can check of
// blocks_device.h. Test builds only.

namespace hora::warp {

template <class Q, Mode kMode>
void encode_as(const EncodeJob& job) {
  for (uint64_t begin = 0, block = 0; begin < job.count; begin += job.bucket, ++block) {
    const uint64_t left = job.count - begin;
    const auto n = static_cast<uint32_t>(left < job.bucket ? left : job.bucket);
    uint8_t* codes = job.codes + block * code_bytes(Q::kBits, job.bucket);
    typename Q::Scale scale{};
    if constexpr (Q::kScales > 0) {
      typename Q::Sum sums[kLanes];
      for (uint32_t lane = 0; lane < kLanes; ++lane)
        sums[lane] = lane_sum<Q, kMode>(job, begin, n, lane);
      for (uint32_t half = kLanes / 2; half > 0; half /= 2) {
        for (uint32_t lane = 0; lane < half; ++lane)
          sums[lane] = Q::join(sums[lane], sums[lane + half]);
      }
      scale = Q::fit(sums[0], n);
      Q::store(scale, job.scales + block * Q::kScales);
      if (Q::poisoned(scale)) {
        for (uint64_t i = 0; i < code_bytes(Q::kBits, n); ++i) codes[i] = 0;
        continue;
      }
    }
    constexpr uint32_t kRows = Q::kBits == 16 ? 1 : 8 / Q::kBits;
    const Key key = key_at(job.key, job.first + begin);
    for (uint32_t row = 0; row * kLanes < n; row += kRows) {
      for (uint32_t lane = 0; lane < kLanes; ++lane) {
        const uint32_t packed = lane_codes<Q, kMode, false>(job, scale, key, begin, n, row, lane);
        if constexpr (Q::kBits == 16)
          reinterpret_cast<uint16_t*>(codes)[row * kLanes + lane] = static_cast<uint16_t>(packed);
        else
          codes[row / kRows * kLanes + lane] = static_cast<uint8_t>(packed);
      }
    }
  }
}

template <class Q>
void encode(const EncodeJob& job, void*) {
  if (job.mode == Mode::kPlain) return encode_as<Q, Mode::kPlain>(job);
  if (job.mode == Mode::kHeld) return encode_as<Q, Mode::kHeld>(job);
  encode_as<Q, Mode::kFeedback>(job);
}

template <class Q>
void decode(const DecodeJob& job, void*) {
  for (uint64_t i = 0; i < job.count; ++i) {
    const uint64_t block = i / job.bucket;
    const auto at = static_cast<uint32_t>(i % job.bucket);
    const float value =
        job.scale * lane_value<Q>(job.codes + block * code_bytes(Q::kBits, job.bucket),
                                  Q::load(job.scales + block * Q::kScales), at / kLanes,
                                  at % kLanes);
    job.sum[i] = job.overwrite ? value : job.sum[i] + value;
  }
}

}  // namespace hora::warp
