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

Verdict judge(const Slot& slot, std::span<const float> result) {
  const Status status = slot.second().judge(result);
  if (status.ok()) return {};
  return {Status(status.code(), fmt::format("'{}': {}", slot.tensor, status.message())), &slot,
          result.empty() ? 0 : result[0]};
}

Ticket complete(Job& job, const Verdict& verdict) {
  if (!job.ending) co_return verdict.status;
  co_return co_await job.ending->run(verdict);
}

void take_back(Job& job, const Chunk& chunk, const std::byte* payload, const float* result) {
  chunk.slot->codec->take_back(job.turn(*chunk.slot), {nullptr, chunk.first, chunk.count},
                               job.mine(chunk), {payload, chunk.bytes}, result);
}

size_t lay_out(Job& job, int striped, size_t owners) {
  auto* table = reinterpret_cast<size_t*>(job.scratch(kTables, 4 * owners * sizeof(size_t)));
  std::fill_n(table, 4 * owners, 0);
  job.there = {{table, owners}, {table + owners, owners}};
  job.back = {{table + 2 * owners, owners}, {table + 3 * owners, owners}};
  Walk walk(job.slots, striped);
  for (Chunk chunk; walk.next(chunk);) {
    job.there.sizes[static_cast<size_t>(chunk.owner)] += aligned(chunk.bytes);
    job.back.sizes[static_cast<size_t>(chunk.owner)] += aligned(chunk.back_bytes);
  }
  job.back.begin();
  return job.there.begin();
}

}  // namespace hora::aggregation
