#include "ops/gloo/collectives.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "ops/kernels/reduce.h"

namespace hora::gloo {
namespace {

// One message deep is quicker up to here, although it moves members times as many bytes.
constexpr size_t kSmallBytes = 4096;
// Large enough that a message's cost does not show, small enough to stay in the cache between its
// arrival and its reduction.
constexpr size_t kChunkBytes = 512 * 1024;
// Gloo looks for messages by searching a list.
constexpr size_t kMaxChunks = 64;

constexpr uint64_t kPhases =
    2;  // an operation's slot makes this many for Gloo; 0 is the greeting's
uint64_t slot_of(uint64_t slot, uint64_t phase) {
  return (slot + 1) * kPhases + phase;
}

bool is_small(int members, size_t bytes) {
  return members == 2 ? bytes <= 2 * kSmallBytes : bytes <= kSmallBytes;
}

/// Consecutive ranges of elements, one for each member.
struct Parts {
  std::vector<size_t> begin;  // one more than members
  size_t count(int member) const {
    const auto at = static_cast<size_t>(member);
    return begin[at + 1] - begin[at];
  }
  size_t at(int member) const { return begin[static_cast<size_t>(member)]; }
};

Parts even_parts(int members, size_t count) {
  const auto parts = static_cast<size_t>(members);
  Parts result;
  for (size_t i = 0; i <= parts; ++i)
    result.begin.push_back(count / parts * i + std::min(i, count % parts));
  return result;
}

Parts given_parts(std::span<const size_t> counts) {
  Parts result;
  result.begin.push_back(0);
  for (const size_t count : counts) result.begin.push_back(result.begin.back() + count);
  return result;
}

/// Elements in each chunk of a part; the same number on every member, for the part's size alone
/// decides it.
size_t chunk_of(size_t count, size_t width) {
  return std::max({kChunkBytes / width, (count + kMaxChunks - 1) / kMaxChunks, size_t{1}});
}
size_t chunks_of(size_t count, size_t width) {
  const size_t chunk = chunk_of(count, width);
  return (count + chunk - 1) / chunk;
}

/// The other members, beginning after this one, so that not all send to member 0 first.
int other(const Mesh& mesh, int index) {
  return (mesh.member() + index) % mesh.size();
}

/// Sends every member its part and reduces one's own, chunk by chunk, into `own`. Then, with
/// `result`, gathers the reduced parts there; `own` is this member's part of it.
class OwnerReduce {
 public:
  OwnerReduce(Mesh& mesh, uint64_t slot, const Reduction& reduction, const Parts& parts,
              std::span<std::byte> scratch)
      : mesh_(mesh),
        slot_(slot),
        reduction_(reduction),
        parts_(parts),
        width_(bytes_of(reduction.dtype)),
        own_count_(parts.count(mesh.member())),
        own_chunks_(chunks_of(own_count_, width_)),
        scratch_(scratch) {}

  Status run(const std::byte* input, std::byte* own, std::byte* result) {
    HORA_TRY(begin(input));
    if (result) HORA_TRY(begin_gather(result));
    for (size_t chunk = 0; chunk < own_chunks_; ++chunk) {
      HORA_TRY(reduce_chunk(chunk, input, own));
      if (result) HORA_TRY(spread(chunk, own));
    }
    return mesh_.wait_for_all();
  }

 private:
  std::byte* arrived(int peer) const {
    const int place = peer < mesh_.member() ? peer : peer - 1;
    return scratch_.data() + static_cast<size_t>(place) * own_count_ * width_;
  }

  Status begin(const std::byte* input) {
    for (size_t chunk = 0; chunk < own_chunks_; ++chunk)
      for (int i = 1; i < mesh_.size(); ++i) {
        const auto [from, count] = range(own_count_, chunk);
        const int peer = other(mesh_, i);
        HORA_TRY(
            mesh_.receive(peer, slot_of(slot_, 0), arrived(peer) + from * width_, count * width_));
      }
    for (int i = 1; i < mesh_.size(); ++i) {
      const int peer = other(mesh_, i);
      const size_t all = parts_.count(peer);
      for (size_t chunk = 0; chunk < chunks_of(all, width_); ++chunk) {
        const auto [from, count] = range(all, chunk);
        HORA_TRY(mesh_.send(peer, slot_of(slot_, 0), input + (parts_.at(peer) + from) * width_,
                            count * width_));
      }
    }
    return {};
  }

  /// A reduced chunk comes back only when its owner has all of ours that it replaces, so it may
  /// land in the memory that we send from.
  Status begin_gather(std::byte* result) {
    for (int i = 1; i < mesh_.size(); ++i) {
      const int peer = other(mesh_, i);
      const size_t all = parts_.count(peer);
      for (size_t chunk = 0; chunk < chunks_of(all, width_); ++chunk) {
        const auto [from, count] = range(all, chunk);
        HORA_TRY(mesh_.receive(peer, slot_of(slot_, 1), result + (parts_.at(peer) + from) * width_,
                               count * width_));
      }
    }
    return {};
  }

  Status reduce_chunk(size_t chunk, const std::byte* input, std::byte* own) {
    // begin() asked for the messages of all chunks first, in this order.
    const auto peers = static_cast<size_t>(mesh_.size() - 1);
    for (size_t i = 0; i < peers; ++i) HORA_TRY(mesh_.wait(chunk * peers + i));
    const auto [from, count] = range(own_count_, chunk);
    inputs_.clear();
    for (int member = 0; member < mesh_.size(); ++member)
      inputs_.push_back(member == mesh_.member() ? input + (parts_.at(member) + from) * width_
                                                 : arrived(member) + from * width_);
    std::byte* const output = own + from * width_;
    reduce(reduction_, inputs_, std::span<std::byte* const>(&output, 1), count);
    return {};
  }

  Status spread(size_t chunk, const std::byte* own) {
    const auto [from, count] = range(own_count_, chunk);
    for (int i = 1; i < mesh_.size(); ++i)
      HORA_TRY(mesh_.send(other(mesh_, i), slot_of(slot_, 1), own + from * width_, count * width_));
    return {};
  }

  struct Range {
    size_t from, count;
  };
  Range range(size_t all, size_t chunk) const {
    const size_t size = chunk_of(all, width_);
    return {chunk * size, std::min(size, all - chunk * size)};
  }

  Mesh& mesh_;
  const uint64_t slot_;
  const Reduction& reduction_;
  const Parts& parts_;
  const size_t width_, own_count_, own_chunks_;
  const std::span<std::byte> scratch_;
  std::vector<const std::byte*> inputs_;
};

Status exchange_all(Mesh& mesh, uint64_t slot, std::byte* data, size_t count,
                    const Reduction& reduction, std::span<std::byte> scratch) {
  const size_t bytes = count * bytes_of(reduction.dtype);
  std::vector<const std::byte*> inputs(static_cast<size_t>(mesh.size()), data);
  for (int i = 1; i < mesh.size(); ++i) {
    const int peer = other(mesh, i);
    std::byte* const theirs = scratch.data() + static_cast<size_t>(i - 1) * bytes;
    inputs[static_cast<size_t>(peer)] = theirs;
    HORA_TRY(mesh.receive(peer, slot_of(slot, 0), theirs, bytes));
  }
  for (int i = 1; i < mesh.size(); ++i)
    HORA_TRY(mesh.send(other(mesh, i), slot_of(slot, 0), data, bytes));
  HORA_TRY(mesh.wait_for_all());
  reduce(reduction, inputs, std::span<std::byte* const>(&data, 1), count);
  return {};
}

void copy(std::byte* to, const std::byte* from, size_t bytes) {
  if (bytes > 0 && to != from) std::memcpy(to, from, bytes);
}

}  // namespace

size_t allreduce_scratch(int members, size_t count, DType dtype) {
  const size_t bytes = count * bytes_of(dtype);
  const auto peers = static_cast<size_t>(members - 1);
  if (is_small(members, bytes)) return peers * bytes;
  return peers * (count / static_cast<size_t>(members) + 1) * bytes_of(dtype);
}

size_t reduce_scatter_scratch(int members, size_t own_count, DType dtype) {
  return static_cast<size_t>(members - 1) * own_count * bytes_of(dtype);
}

Status allreduce(Mesh& mesh, uint64_t slot, std::byte* data, size_t count,
                 const Reduction& reduction, std::span<std::byte> scratch) {
  const size_t width = bytes_of(reduction.dtype);
  if (count == 0) return {};
  if (is_small(mesh.size(), count * width))
    return exchange_all(mesh, slot, data, count, reduction, scratch);
  const Parts parts = even_parts(mesh.size(), count);
  return OwnerReduce(mesh, slot, reduction, parts, scratch)
      .run(data, data + parts.at(mesh.member()) * width, data);
}

Status reduce_scatter(Mesh& mesh, uint64_t slot, const std::byte* input, std::byte* output,
                      std::span<const size_t> counts, const Reduction& reduction,
                      std::span<std::byte> scratch) {
  const Parts parts = given_parts(counts);
  return OwnerReduce(mesh, slot, reduction, parts, scratch).run(input, output, nullptr);
}

Status allgather(Mesh& mesh, uint64_t slot, const std::byte* input, std::byte* output,
                 std::span<const size_t> bytes) {
  const Parts parts = given_parts(bytes);
  const int self = mesh.member();
  for (int i = 1; i < mesh.size(); ++i) {
    const int peer = other(mesh, i);
    HORA_TRY(mesh.receive(peer, slot_of(slot, 0), output + parts.at(peer), parts.count(peer)));
  }
  for (int i = 1; i < mesh.size(); ++i)
    HORA_TRY(mesh.send(other(mesh, i), slot_of(slot, 0), input, parts.count(self)));
  copy(output + parts.at(self), input, parts.count(self));
  return mesh.wait_for_all();
}

Status alltoall(Mesh& mesh, uint64_t slot, const std::byte* input, std::span<const size_t> send,
                std::byte* output, std::span<const size_t> receive) {
  const Parts from = given_parts(send), to = given_parts(receive);
  for (int i = 1; i < mesh.size(); ++i) {
    const int peer = other(mesh, i);
    HORA_TRY(mesh.receive(peer, slot_of(slot, 0), output + to.at(peer), to.count(peer)));
  }
  for (int i = 1; i < mesh.size(); ++i) {
    const int peer = other(mesh, i);
    HORA_TRY(mesh.send(peer, slot_of(slot, 0), input + from.at(peer), from.count(peer)));
  }
  const int self = mesh.member();
  copy(output + to.at(self), input + from.at(self), from.count(self));
  return mesh.wait_for_all();
}

Status broadcast(Mesh& mesh, uint64_t slot, std::byte* data, size_t bytes, int root) {
  // Members are counted from the root. The parent of v is v without its lowest set bit; its
  // children are v + 2^k for the 2^k below that bit.
  const int size = mesh.size();
  const int place = (mesh.member() - root + size) % size;
  const auto member = [&](int at) { return (at + root) % size; };
  const int lowest = place == 0 ? size : place & -place;
  const size_t chunk = chunk_of(bytes, 1);
  if (place != 0)
    for (size_t at = 0; at < bytes; at += chunk)
      HORA_TRY(mesh.receive(member(place - lowest), slot_of(slot, 0), data + at,
                            std::min(chunk, bytes - at)));
  for (size_t at = 0; at < bytes; at += chunk) {
    if (place != 0) HORA_TRY(mesh.wait(at / chunk));
    for (int step = 1; step < lowest && place + step < size; step *= 2)
      HORA_TRY(mesh.send(member(place + step), slot_of(slot, 0), data + at,
                         std::min(chunk, bytes - at)));
  }
  return mesh.wait_for_all();
}

Status barrier(Mesh& mesh, uint64_t slot) {
  const int size = mesh.size();
  std::byte nothing{}, heard{};
  for (int step = 1; step < size; step *= 2) {
    HORA_TRY(mesh.receive((mesh.member() - step + size) % size, slot_of(slot, 0), &heard, 1));
    HORA_TRY(mesh.send((mesh.member() + step) % size, slot_of(slot, 0), &nothing, 1));
    HORA_TRY(mesh.wait_for_all());
  }
  return {};
}

}  // namespace hora::gloo
