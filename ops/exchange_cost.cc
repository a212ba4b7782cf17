#include "ops/exchange_cost.h"

#include <algorithm>
#include <vector>

#include "compressors/convert.h"
#include "compressors/element.h"
#include "compressors/heap_workspace.h"
#include "compressors/merging.h"

namespace hora {
namespace {

/// Seconds that a compressed tensor takes whatever its size: three calls of a codec, tables.
constexpr double kEachTensor = 2e-6;

/// Sums of four uniform numbers of 8 bits, close to normal ones.
std::vector<float> trial_gradient(size_t count) {
  const Key key = make_key(0, 0, 0, 0);
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) {
    const uint32_t bits = random_bits(key, static_cast<uint32_t>(i));
    const uint32_t sum = (bits & 0xFF) + (bits >> 8 & 0xFF) + (bits >> 16 & 0xFF) + (bits >> 24);
    values[i] = 1e-5f * (static_cast<float>(sum) - 509.5f);
  }
  return values;
}

/// Seconds of the quickest of several runs; of what takes long, of few. The first, which fetches
/// memory, does not count.
template <class Work>
double least_seconds(const Now& now, int64_t budget, Work work) {
  constexpr int kLeast = 3, kMost = 1000;
  constexpr int64_t kLong = 1'000'000;
  int64_t least = INT64_MAX, spent = 0;
  for (int i = 0; i <= kMost; ++i) {
    const int64_t began = now();
    work();
    const int64_t took = now() - began;
    if (i > 0) least = std::min(least, took);
    spent += took;
    if (spent >= budget && i >= (took < kLong ? kLeast : 1)) break;
  }
  return 1e-9 * static_cast<double>(least);
}

double there_and_back(double bytes, int ranks) {
  return 2 * bytes * (ranks - 1) / ranks;
}

double round_bytes(const Codec& codec, size_t count, int ranks) {
  double bytes = 0;
  for (int round = 0; round < codec.rounds(); ++round)
    bytes += static_cast<double>(codec.round_bytes(round, count, ranks));
  return bytes;
}

/// Where every rank has a part for every other; it goes directly, whatever is shared.
double alltoall_seconds(const Topology& topology, size_t bytes) {
  const Route route = topology.hosts == 1 ? Route::kInside : Route::kFlat;
  return predict(topology, route, bytes, Collective::kReduceScatter).seconds;
}

/// A layer's messages meet `degree` ranks, of which those of other hosts share one link.
double merge_seconds(const Topology& topology, const Merging& merging) {
  const bool one_host = topology.hosts == 1;
  const LinkCost& link = one_host ? topology.inside : topology.across;
  const auto ranks = static_cast<double>(topology.ranks()),
             local = static_cast<double>(topology.ranks_per_host);
  const double outside = one_host ? 1 : local * (ranks - local) / std::max(1.0, ranks - 1);
  double seconds = 0;
  for (int i = 0; i < merging.butterfly().layers(); ++i) {
    const auto others = static_cast<double>(merging.butterfly().layer(i).degree - 1);
    const auto bytes = static_cast<double>(merging.in(i).bytes());
    seconds += link.latency + others * link.overhead + outside * others * bytes / link.bandwidth;
  }
  const size_t result = merging.out().bytes() * topology.ranks();
  return seconds + choose(topology, result, Collective::kAllgather).seconds;
}

/// Parts to their owners, and back to all.
double owners_seconds(const Topology& topology, size_t bytes) {
  return alltoall_seconds(topology, bytes) +
         choose(topology, bytes, Collective::kAllgather).seconds;
}

/// What a rank has to say before payloads whose sizes vary: one size for each rank.
size_t size_bytes(const Codec& codec, size_t ranks) {
  return codec.traits().varies ? ranks * sizeof(uint64_t) : 0;
}

double transfer_seconds(const Topology& topology, Aggregation how, const Codec* codec, size_t count,
                        DType dtype, std::span<const int> degrees) {
  const auto ranks = static_cast<int>(topology.ranks());
  const size_t sizes = codec ? size_bytes(*codec, topology.ranks()) : 0;
  switch (how) {
    case Aggregation::kDense:
      return choose(topology, count * bytes_of(dtype)).seconds;
    case Aggregation::kLinear: {
      double seconds = 0;
      for (int round = 0; round < codec->rounds(); ++round)
        seconds += choose(topology, codec->round_bytes(round, count, ranks)).seconds;
      return seconds;
    }
    case Aggregation::kRecode:
    case Aggregation::kVote: {
      const double seconds = owners_seconds(topology, codec->payload_bytes(count));
      return sizes > 0 ? seconds + owners_seconds(topology, sizes) : seconds;
    }
    case Aggregation::kGather: {
      const size_t bytes = codec->payload_bytes(count) * topology.ranks();
      const double seconds = choose(topology, bytes, Collective::kAllgather).seconds;
      return sizes > 0 ? seconds + choose(topology, sizes, Collective::kAllgather).seconds
                       : seconds;
    }
    case Aggregation::kMerge:
      return merge_seconds(topology, Merging(*codec, count, ranks, degrees));
  }
  HORA_CHECK(false, "no such aggregation");
}

/// For each element. An owner in a recode decodes its share of all payloads and encodes it again.
/// A merge reads and writes as many entries as its messages have room for.
double codec_seconds(Aggregation how, const CodecSpeed& speed, int ranks,
                     std::span<const int> degrees) {
  const double members = ranks;
  switch (how) {
    case Aggregation::kDense:
      return 0;
    case Aggregation::kLinear:
      return speed.encode + speed.decode + speed.settle;
    case Aggregation::kRecode:
    case Aggregation::kVote:  // counting ballots instead takes less
      return (speed.encode + speed.settle) * (1 + 1 / members) + 2 * speed.decode;
    case Aggregation::kGather:
      return speed.encode + members * speed.decode + speed.settle;
    case Aggregation::kMerge: {
      const double layers = Butterfly(ranks, degrees).layers();
      const double payloads =
          1 + layers * Merging::kUneven + std::min<double>(members, Merging::kUnion);
      return speed.encode + payloads * speed.decode + 2 * speed.settle;
    }
  }
  HORA_CHECK(false, "no such aggregation");
}

}  // namespace

Result<CodecSpeed> measure_speed(const Codec& codec, const Now& now, int64_t budget) {
  const size_t count = codec.extent().count();
  const bool linear = codec.traits().linear;
  const std::vector<float> values = trial_gradient(count);
  const Piece piece{values.data(), 0, count};
  State state = make_state(codec, 0, count);
  HeapWorkspace workspace;
  const StepContext context;
  const Turn turn{context, 0, workspace};
  std::vector<std::vector<std::byte>> payloads;
  for (int round = 0; round < codec.rounds(); ++round)
    payloads.emplace_back(codec.round_bytes(round, count, context.size));
  std::vector<float> sum(count);
  Status status;
  const int64_t share = budget / 3;
  CodecSpeed speed;
  speed.encode = least_seconds(now, share, [&] {
    codec.encode(turn, piece, state, payloads[0].data());
    for (size_t round = 1; round < payloads.size(); ++round)
      codec.next(turn, piece, state, payloads[round - 1].data(), payloads[round].data());
  });
  const std::span<const std::byte> payload =
      std::span(payloads[0]).first(codec.used_bytes(payloads[0], count));
  speed.decode = least_seconds(now, share, [&] {
    const Status decoded = linear ? codec.finish(turn, piece, state, payloads.back(), sum.data(), 1)
                                  : codec.decode_add(turn, payload, 0, sum, 1);
    if (!decoded.ok()) status = decoded;
  });
  HORA_TRY(status);
  HORA_TRY(codec.judge(sum));
  bool finite = true;
  speed.settle = least_seconds(now, share, [&] {
    std::fill(sum.begin(), sum.end(), 0.0f);
    finite = all_finite(sum.data(), count) && finite;
  });
  HORA_CHECK(finite, "zeros are finite");
  const double each = 1.0 / static_cast<double>(std::max<size_t>(count, 1));
  return CodecSpeed{speed.encode * each, speed.decode * each, speed.settle * each};
}

double sent_bytes(Aggregation how, const Codec* codec, size_t count, size_t width, int ranks,
                  std::span<const int> degrees) {
  const auto sizes =
      codec ? static_cast<double>(size_bytes(*codec, static_cast<size_t>(ranks - 1))) : 0;
  switch (how) {
    case Aggregation::kDense:
      return there_and_back(static_cast<double>(count * width), ranks);
    case Aggregation::kLinear:
      return there_and_back(round_bytes(*codec, count, ranks), ranks);
    case Aggregation::kRecode:
    case Aggregation::kVote:
      return there_and_back(static_cast<double>(codec->payload_bytes(count)), ranks) + 2 * sizes;
    case Aggregation::kGather:
      return static_cast<double>(codec->payload_bytes(count)) * (ranks - 1) + sizes;
    case Aggregation::kMerge:
      return static_cast<double>(Merging(*codec, count, ranks, degrees).bytes());
  }
  HORA_CHECK(false, "no such aggregation");
}

ExchangeCost exchange_cost(const Topology& topology, Aggregation how, const Codec* codec,
                           const CodecSpeed& speed, size_t count, DType dtype,
                           std::span<const int> degrees) {
  if (topology.ranks() == 1 || count == 0) return {};
  ExchangeCost cost{transfer_seconds(topology, how, codec, count, dtype, degrees), 0};
  if (!codec) return cost;
  const auto elements = static_cast<double>(count);
  cost.codec = kEachTensor +
               elements * codec_seconds(how, speed, static_cast<int>(topology.ranks()), degrees);
  return cost;
}

}  // namespace hora
