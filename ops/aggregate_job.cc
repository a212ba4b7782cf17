#include "ops/aggregate_job.h"

#include <cstring>

#include <fmt/format.h>

#include "compressors/convert.h"

namespace hora::aggregation {

size_t offset(const Chunk& chunk) {
  return (chunk.first - chunk.slot->first) * bytes_of(chunk.slot->dtype);
}

Piece piece_of(Job& job, const Chunk& chunk) {
  const std::byte* input = chunk.slot->input + offset(chunk);
  if (chunk.slot->dtype == DType::kFloat32) {
    return {reinterpret_cast<const float*>(input), chunk.first, chunk.count};
  }
  float* wide = job.floats(kStage, chunk.count);
  widen(chunk.slot->dtype, input, wide, chunk.count);
  return {wide, chunk.first, chunk.count};
}

void encode(Job& job, const Chunk& chunk, std::byte* to) {
  chunk.slot->codec->encode(job.turn(*chunk.slot), piece_of(job, chunk), job.mine(chunk), to);
  std::memset(to + chunk.bytes, 0, aligned(chunk.bytes) - chunk.bytes);
  ++job.encoded;
}

std::span<float> begin_result(Job& job, const Chunk& chunk) {
  float* result = chunk.slot->dtype == DType::kFloat32
                      ? reinterpret_cast<float*>(chunk.slot->result + offset(chunk))
                      : job.floats(kStage, chunk.count);
  std::fill_n(result, chunk.count, 0.0f);
  return {result, chunk.count};
}

bool end_result(const Chunk& chunk, std::span<const float> result) {
  if (chunk.slot->dtype != DType::kFloat32) {
    narrow(chunk.slot->dtype, result.data(), chunk.slot->result + offset(chunk), chunk.count);
  }
  return all_finite(result.data(), result.size());
}

Status judge(const Chunk& chunk, std::span<const float> result) {
  Status status = chunk.slot->codec->judge(result);
  if (status.ok()) return status;
  return Status(status.code(), fmt::format("'{}': {}", chunk.slot->tensor, status.message()));
}

void take_back(Job& job, const Chunk& chunk, const std::byte* payload, const float* result) {
  chunk.slot->codec->take_back(job.turn(*chunk.slot), {nullptr, chunk.first, chunk.count},
                               job.mine(chunk), {payload, chunk.bytes}, result);
}

size_t lay_out(Job& job, int striped, size_t owners) {
  auto* table = reinterpret_cast<size_t*>(job.scratch(kTables, 2 * owners * sizeof(size_t)));
  job.sizes = {table, owners};
  job.cursors = {table + owners, owners};
  std::fill_n(table, owners, 0);
  size_t total = 0;
  Walk walk(job.slots, striped);
  for (Chunk chunk; walk.next(chunk);) {
    job.sizes[static_cast<size_t>(chunk.owner)] += aligned(chunk.bytes);
    total += aligned(chunk.bytes);
  }
  job.begin_cursors();
  return total;
}

}  // namespace hora::aggregation
