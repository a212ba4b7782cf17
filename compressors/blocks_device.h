#pragma once

// The CUDA drivers of blocks.h: a warp is a block, a lane is a lane. Sizes never leave the device,
// for a payload's layout is a function of the element count alone.

namespace hora::cuda {

template <class Sum>
__device__ Sum shuffle_down(Sum sum, uint32_t distance) {
  static_assert(sizeof(Sum) % 4 == 0);
  uint32_t words[sizeof(Sum) / 4];
  memcpy(words, &sum, sizeof(Sum));
  for (uint32_t& word : words) word = __shfl_down_sync(~0u, word, distance);
  memcpy(&sum, words, sizeof(Sum));
  return sum;
}

template <class Scale>
__device__ Scale from_lane_zero(Scale scale) {
  uint32_t words[sizeof(Scale) / 4];
  memcpy(words, &scale, sizeof(Scale));
  for (uint32_t& word : words) word = __shfl_sync(~0u, word, 0);
  memcpy(&scale, words, sizeof(Scale));
  return scale;
}

template <class Q, Mode kMode>
__global__ void encode_kernel(EncodeJob job) {
  const uint32_t lane = threadIdx.x % kLanes;
  const uint64_t block = (static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kLanes;
  const uint64_t begin = block * job.bucket;
  if (begin >= job.count) return;
  const uint64_t left = job.count - begin;
  const auto n = static_cast<uint32_t>(left < job.bucket ? left : job.bucket);
  uint8_t* codes = job.codes + block * code_bytes(Q::kBits, job.bucket);
  typename Q::Scale scale{};
  if constexpr (Q::kScales > 0) {
    typename Q::Sum sum = lane_sum<Q, kMode>(job, begin, n, lane);
    for (uint32_t half = kLanes / 2; half > 0; half /= 2)
      sum = Q::join(sum, shuffle_down(sum, half));
    scale = from_lane_zero(Q::fit(sum, n));
    if (lane == 0) Q::store(scale, job.scales + block * Q::kScales);
    if (Q::poisoned(scale)) {
      for (uint64_t i = lane; i < code_bytes(Q::kBits, n); i += kLanes) codes[i] = 0;
      return;
    }
  }
  constexpr uint32_t kRows = Q::kBits == 16 ? 1 : 8 / Q::kBits;
  const Key key = key_at(job.key, job.first + begin);
  for (uint32_t row = 0; row * kLanes < n; row += kRows) {
    const uint32_t packed = lane_codes<Q, kMode, false>(job, scale, key, begin, n, row, lane);
    if constexpr (Q::kBits == 16)
      reinterpret_cast<uint16_t*>(codes)[row * kLanes + lane] = static_cast<uint16_t>(packed);
    else
      codes[row / kRows * kLanes + lane] = static_cast<uint8_t>(packed);
  }
}

template <class Q>
__global__ void decode_kernel(DecodeJob job) {
  const uint32_t lane = threadIdx.x % kLanes;
  const uint64_t block = (static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kLanes;
  const uint64_t begin = block * job.bucket;
  if (begin >= job.count) return;
  const uint64_t left = job.count - begin;
  const auto n = static_cast<uint32_t>(left < job.bucket ? left : job.bucket);
  const uint8_t* codes = job.codes + block * code_bytes(Q::kBits, job.bucket);
  const typename Q::Scale scale = Q::load(job.scales + block * Q::kScales);
  for (uint32_t i = lane; i < n; i += kLanes) {
    const float value = job.scale * lane_value<Q>(codes, scale, i / kLanes, lane);
    job.sum[begin + i] = job.overwrite ? value : job.sum[begin + i] + value;
  }
}

template <class Q>
void encode(const EncodeJob& job, void* stream) {
  const auto warps = (job.count + job.bucket - 1) / job.bucket;
  const auto grid = static_cast<unsigned>((warps + 7) / 8);
  auto* s = static_cast<cudaStream_t>(stream);
  if (job.mode == Mode::kPlain)
    encode_kernel<Q, Mode::kPlain><<<grid, 256, 0, s>>>(job);
  else if (job.mode == Mode::kHeld)
    encode_kernel<Q, Mode::kHeld><<<grid, 256, 0, s>>>(job);
  else
    encode_kernel<Q, Mode::kFeedback><<<grid, 256, 0, s>>>(job);
}

template <class Q>
void decode(const DecodeJob& job, void* stream) {
  const auto warps = (job.count + job.bucket - 1) / job.bucket;
  decode_kernel<Q>
      <<<static_cast<unsigned>((warps + 7) / 8), 256, 0, static_cast<cudaStream_t>(stream)>>>(job);
}

}  // namespace hora::cuda
