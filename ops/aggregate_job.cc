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

void encode(Job& job, const Chunk& chunk) {
  const Codec& codec = *chunk.slot->codec;
  size_t& cursor = job.there.cursors[static_cast<size_t>(chunk.owner)];
  std::byte* const to = job.out + cursor;
  codec.encode(job.turn(*chunk.slot), piece_of(job, chunk), job.mine(chunk), to);
  cursor += filled_up(codec, to, chunk.count, chunk.bytes);
  ++job.encoded;
}

size_t filled_up(const Codec& codec, std::byte* payload, size_t count, size_t most) {
  const size_t used = codec.used_bytes({payload, most}, count);
  std::memset(payload + used, 0, aligned(used) - used);
  return aligned(used);
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

void take_back(Job& job, const Chunk& chunk, std::span<const std::byte> payload,
               const float* result) {
  chunk.slot->codec->take_back(job.turn(*chunk.slot), {nullptr, chunk.first, chunk.count},
                               job.mine(chunk), payload, result);
}

size_t lay_out(Job& job, int striped, size_t owners) {
  const auto ranks = static_cast<size_t>(job.ranks());
  const size_t length = 3 * (2 * owners + ranks);
  auto* table = reinterpret_cast<size_t*>(job.scratch(kTables, length * sizeof(size_t)));
  std::fill_n(table, length, 0);
  const auto parts = [&](size_t n) {
    const Parts made{{table, n}, {table + n, n}, {table + 2 * n, n}};
    table += 3 * n;
    return made;
  };
  job.there = parts(owners);
  job.back = parts(owners);
  job.from = parts(ranks);
  Walk walk(job.slots, striped);
  for (Chunk chunk; walk.next(chunk);) {
    job.there.sizes[static_cast<size_t>(chunk.owner)] += aligned(chunk.bytes);
    job.back.sizes[static_cast<size_t>(chunk.owner)] += aligned(chunk.back_bytes);
  }
  const size_t for_me = owners == 1 ? 0 : static_cast<size_t>(job.me());
  std::fill(job.from.sizes.begin(), job.from.sizes.end(), job.there.sizes[for_me]);
  job.begin_cursors();
  return job.there.begin();
}

void pack(Job& job) {
  Parts& parts = job.there;
  size_t at = 0;
  for (size_t r = 0; r < parts.sizes.size(); ++r) {
    const size_t begin = parts.ends[r] - parts.sizes[r];
    parts.sizes[r] = parts.cursors[r] - begin;
    if (parts.sizes[r] > 0) std::memmove(job.out + at, job.out + begin, parts.sizes[r]);
    at += parts.sizes[r];
  }
  parts.begin();
}

Status blamed(const Status& status, const Chunk& chunk, int rank) {
  if (status.ok()) return status;
  return Status(status.code(), fmt::format("'{}': from rank {} of the set: {}", chunk.slot->tensor,
                                           rank, status.message()));
}

Status add_up(Job& job, const Chunk& chunk, const std::byte* memory, std::span<float> sum,
              float scale) {
  const Codec& codec = *chunk.slot->codec;
  for (int r = 0; r < job.ranks(); ++r) {
    const auto payload = job.from.read(r, memory, codec, chunk.count, chunk.bytes);
    HORA_TRY(blamed(codec.decode_add(job.turn(*chunk.slot), payload, chunk.first, sum, scale),
                    chunk, r));
  }
  return {};
}

Ticket tell_sizes(Job& job, std::span<const size_t> mine, Parts& parts) {
  const auto ranks = static_cast<size_t>(job.ranks());
  auto* told = reinterpret_cast<uint64_t*>(job.scratch(kSizes, 2 * ranks * sizeof(uint64_t)));
  uint64_t* const heard = told + ranks;
  std::copy(mine.begin(), mine.end(), told);
  auto* table = reinterpret_cast<size_t*>(job.scratch(kOther, ranks * sizeof(size_t)));
  const std::span<size_t> each(table, ranks);
  std::fill(each.begin(), each.end(), sizeof(uint64_t));
  auto* const from = reinterpret_cast<const std::byte*>(told);
  auto* const to = reinterpret_cast<std::byte*>(heard);
  job.count_sent((ranks - 1) * sizeof(uint64_t));
  if (mine.size() == ranks)
    HORA_CO_TRY(co_await job.communicator.alltoall(job.lane, job.next_tag(), from, each, to, each));
  else
    HORA_CO_TRY(co_await job.communicator.allgather(job.lane, job.next_tag(), from, to, each));
  for (size_t r = 0; r < ranks; ++r) {
    if (heard[r] > parts.sizes[r] || heard[r] % 8 != 0) {
      co_return Status(Code::kCorrupt,
                       fmt::format("rank {} of the set announces payloads of {} bytes; of such "
                                   "tensors they have {} at most, and a multiple of 8",
                                   r, heard[r], parts.sizes[r]));
    }
    parts.sizes[r] = heard[r];
  }
  parts.begin();
  co_return Status();
}

Status all_read(const Parts& parts) {
  for (size_t r = 0; r < parts.sizes.size(); ++r) {
    if (parts.cursors[r] == parts.ends[r]) continue;
    return Status(Code::kCorrupt,
                  fmt::format("rank {} of the set has sent {} bytes, of which payloads take {}", r,
                              parts.sizes[r], parts.sizes[r] - (parts.ends[r] - parts.cursors[r])));
  }
  return {};
}

}  // namespace hora::aggregation
