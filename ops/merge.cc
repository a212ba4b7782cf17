#include "ops/merge.h"

#include <cstring>

#include <fmt/format.h>

#include "compressors/convert.h"
#include "compressors/largest.h"
#include "compressors/merging.h"

// A message to a member has one part for each chunk of the bucket, in the order of the walk:
//
//   part   = u32 head, f32 value[length]                     where the room is dense
//          | u32 head, u32 place[most], f32 value[most]      elsewhere; what is not used is zeros
//   head   = entries used, 0 where dense; or kPoisoned: the chunk is NaN everywhere
//   place  = counted from the first of those that the message is about
//
// Between layers a chunk is an array of its sums at the places that this rank still has to do with:
// `length` of them after each layer. Members' messages are added to it in the order of their ranks,
// so the order of additions does not depend on who was first.

namespace hora::aggregation {
namespace {

constexpr uint32_t kPoisoned = ~0u;

/// A sum that found no room.
struct Left {
  uint32_t chunk, element;
  float value;
};

/// Ascending places and what is there.
struct Entries {
  uint32_t* places = nullptr;
  float* values = nullptr;
  size_t count = 0;
};

class Merge {
 public:
  explicit Merge(Job& job) : job_(job), butterfly_(job.ranks(), job.combine.degrees) {}

  Ticket run() {
    HORA_CO_TRY(co_await encode_all());
    for (int i = 0; i < butterfly_.layers(); ++i) {
      HORA_CO_TRY(co_await send(i));
      HORA_CO_TRY(co_await add_up(i));
    }
    HORA_CO_TRY(co_await send_to_all());
    HORA_CO_TRY(co_await read_results());
    const Verdict fine;
    HORA_CO_TRY(co_await complete(job_, fine));
    settle();
    co_return Status();
  }

 private:
  Merging merging(const Chunk& chunk) const {
    return Merging(*chunk.slot->codec, chunk.count, job_.ranks(), job_.combine.degrees);
  }

  /// Bytes that what `room` says takes, over all chunks.
  template <class RoomOf>
  size_t bytes_of_all(RoomOf room) const {
    size_t total = 0;
    Walk walk(job_.slots, 0);
    for (Chunk chunk; walk.next(chunk);) total += room(merging(chunk)).bytes();
    return total;
  }

  Ticket encode_all() {
    job_.out = job_.scratch(kOut, lay_out(job_, 0, 1));
    reserve();
    Walk walk(job_.slots, 0);
    for (Chunk chunk; walk.next(chunk);) {
      encode(job_, chunk);
      if (job_.pause_is_due(chunk.count)) HORA_CO_TRY(co_await job_.lane.pause());
    }
    co_return Status();
  }

  /// Memory for all layers, because it must not move between them.
  void reserve() {
    size_t chunks = 0, sums = 0, entries = 0, left = 0;
    Walk walk(job_.slots, 0);
    for (Chunk chunk; walk.next(chunk); ++chunks) {
      const Merging merging = this->merging(chunk);
      const int layers = butterfly_.layers();
      if (layers > 0) sums += merging.in(0).length;
      for (int i = 0; i <= layers; ++i) {
        entries = std::max(entries, merging.held(i));
        left += merging.held(i);
      }
    }
    heads_ = {reinterpret_cast<uint32_t*>(job_.scratch(kHeads, chunks * sizeof(uint32_t))), chunks};
    std::fill(heads_.begin(), heads_.end(), 0u);
    sums_ = job_.floats(kSums, sums);
    auto* words = reinterpret_cast<uint32_t*>(job_.scratch(kEntries, (entries + 1) * 8));
    entries_ = {words, reinterpret_cast<float*>(words + entries + 1), 0};
    left_ = {reinterpret_cast<Left*>(job_.scratch(kLeft, left * sizeof(Left))), 0};
  }

  /// This rank's own payload, by places. Elements come in ascending order, so those of one owner
  /// ascend too, and owners are sorted by counting.
  void read_own(const Chunk& chunk, const Merging& merging, std::span<const std::byte> payload,
                uint32_t& head) {
    const Codec& codec = *chunk.slot->codec;
    const std::span<float> said = begin_result(job_, chunk);
    const Status own = codec.decode_add(job_.turn(*chunk.slot), payload, chunk.first, said, 1.0f);
    HORA_CHECK(own.ok(), own.message());
    const std::span<const uint32_t> sent = codec.sent(job_.turn(*chunk.slot), payload, chunk.count);
    entries_.count = sent.size();
    if (sent.empty() && !is_finite(said[0])) head = kPoisoned;
    const auto ranks = static_cast<size_t>(job_.ranks());
    auto* next = reinterpret_cast<size_t*>(job_.scratch(kOther, (ranks + 1) * sizeof(size_t)));
    std::fill_n(next, ranks + 1, 0);
    for (const uint32_t element : sent) ++next[merging.place(element) / merging.length() + 1];
    for (size_t r = 0; r < ranks; ++r) next[r + 1] += next[r];
    for (const uint32_t element : sent) {
      const uint32_t place = merging.place(element);
      const size_t to = next[place / merging.length()]++;
      entries_.places[to] = place;
      entries_.values[to] = said[element];
      if (!is_finite(said[element])) head = kPoisoned;
    }
  }

  /// The sums that are not zero; they lie at places from `first` on.
  void read_sums(const float* sums, size_t length, uint32_t first, uint32_t& head) {
    size_t used = 0;
    bool finite = true;
    for (size_t i = 0; i < length; ++i) {
      entries_.places[used] = first + static_cast<uint32_t>(i);
      entries_.values[used] = sums[i];
      used += sums[i] != 0;
      finite = finite && is_finite(sums[i]);
    }
    entries_.count = used;
    if (!finite) head = kPoisoned;
  }

  /// What this rank holds before layer i, in entries_.
  void read_held(const Chunk& chunk, const Merging& merging, int i, std::span<const std::byte> own,
                 size_t sums, uint32_t& head) {
    if (i == 0) return read_own(chunk, merging, own, head);
    const size_t length = merging.in(i - 1).length;
    read_sums(sums_ + sums, length, first_place(merging, i - 1), head);
  }

  /// The first place that this rank has to do with after layer i.
  uint32_t first_place(const Merging& merging, int i) const {
    const int stride = butterfly_.layer(i).stride;
    return static_cast<uint32_t>(merging.length() *
                                 static_cast<size_t>(job_.me() / stride * stride));
  }

  /// Entries [from, to) as a part of a message; `first` is the place that the message begins with.
  void write(const Merging& merging, uint32_t chunk, const Merging::Room& room, size_t from,
             size_t to, uint32_t first, std::byte* part) {
    std::memset(part, 0, room.bytes());
    auto* words = reinterpret_cast<uint32_t*>(part);
    if (heads_[chunk] == kPoisoned) {
      words[0] = kPoisoned;
      return;
    }
    auto* values = reinterpret_cast<float*>(words + 1);
    if (room.dense) {
      for (size_t j = from; j < to; ++j) values[entries_.places[j] - first] = entries_.values[j];
      return;
    }
    values += room.most;
    uint32_t used = 0;
    const auto put = [&](size_t j) {
      words[1 + used] = entries_.places[j] - first;
      values[used++] = entries_.values[j];
    };
    if (to - from <= room.most) {
      for (size_t j = from; j < to; ++j) put(j);
    } else {
      const std::span<const uint32_t> chosen = largest(from, to, room.most);
      for (size_t j = from, k = 0; j < to; ++j) {
        if (k < chosen.size() && from + chosen[k] == j) {
          put(j);
          ++k;
        } else {
          const size_t element = merging.element(entries_.places[j]);
          left_.list[left_.count++] = {chunk, static_cast<uint32_t>(element), entries_.values[j]};
        }
      }
    }
    words[0] = used;
  }

  std::span<const uint32_t> largest(size_t from, size_t to, size_t most) {
    auto* chosen = reinterpret_cast<uint32_t*>(
        job_.workspace.memory(Workspace::kChosen, (most + 1) * sizeof(uint32_t)));
    Source values{entries_.values + from};
    return {chosen, choose_largest(job_.workspace, values, to - from, most, 0, chosen)};
  }

  Ticket send(int i) {
    const Butterfly::Layer& layer = butterfly_.layer(i);
    const size_t each = bytes_of_all([&](const Merging& m) { return m.in(i); });
    const auto degree = static_cast<size_t>(layer.degree);
    std::byte* messages = job_.scratch(kIn, each * degree);
    job_.begin_cursors();
    size_t sums = 0, at = 0;
    uint32_t index = 0;
    Walk walk(job_.slots, 0);
    for (Chunk chunk; walk.next(chunk); ++index) {
      const Merging merging = this->merging(chunk);
      const Merging::Room room = merging.in(i);
      read_held(chunk, merging, i, job_.said(chunk), sums, heads_[index]);
      size_t from = 0;
      for (size_t m = 0; m < degree; ++m) {
        const auto first = static_cast<uint32_t>(
            merging.length() * static_cast<size_t>(layer.first(job_.me())) + m * room.length);
        size_t to = from;
        while (to < entries_.count && entries_.places[to] - first < room.length) ++to;
        write(merging, index, room, from, to, first, messages + m * each + at);
        from = to;
      }
      at += room.bytes();
      if (i > 0) sums += merging.in(i - 1).length;
      if (job_.pause_is_due(chunk.count)) HORA_CO_TRY(co_await job_.lane.pause());
    }
    co_return co_await exchange(i, each, messages);
  }

  Ticket exchange(int i, size_t each, const std::byte* messages) {
    const auto ranks = static_cast<size_t>(job_.ranks());
    auto* bytes = reinterpret_cast<size_t*>(job_.scratch(kOther, ranks * sizeof(size_t)));
    std::fill_n(bytes, ranks, 0);
    const Butterfly::Layer& layer = butterfly_.layer(i);
    for (int m = 0; m < layer.degree; ++m)
      bytes[static_cast<size_t>(layer.member(job_.me(), m))] = each;
    job_.in = job_.scratch(kAll, each * static_cast<size_t>(layer.degree));
    co_return co_await job_.communicator.alltoall(
        job_.lane, Tag::of(job_.sequence, static_cast<uint64_t>(i)), messages, {bytes, ranks},
        job_.in, {bytes, ranks});
  }

  /// Calls visit(place, value) for what a part says; `first` is the place that it begins with.
  template <class Visit>
  Status read(const Merging::Room& room, const std::byte* part, int from, uint32_t& head,
              Visit visit) {
    const auto* words = reinterpret_cast<const uint32_t*>(part);
    const auto* values = reinterpret_cast<const float*>(words + 1);
    if (words[0] == kPoisoned) {
      head = kPoisoned;
      return {};
    }
    if (room.dense) {
      for (size_t j = 0; j < room.length; ++j) visit(static_cast<uint32_t>(j), values[j]);
      return {};
    }
    values += room.most;
    bool sound = words[0] <= room.most;
    for (uint32_t j = 0; sound && j < words[0]; ++j) sound = words[1 + j] < room.length;
    if (!sound) {
      return Status(Code::kCorrupt,
                    fmt::format("merge: what rank {} of the set sent has {} entries, or places out "
                                "of range; at most {} of {} are sent",
                                from, words[0], room.most, room.length));
    }
    for (uint32_t j = 0; j < words[0]; ++j) visit(words[1 + j], values[j]);
    return {};
  }

  Ticket add_up(int i) {
    const Butterfly::Layer& layer = butterfly_.layer(i);
    const size_t each = bytes_of_all([&](const Merging& m) { return m.in(i); });
    float* sums = sums_;
    size_t at = 0;
    uint32_t index = 0;
    Walk walk(job_.slots, 0);
    for (Chunk chunk; walk.next(chunk); ++index) {
      const Merging::Room room = merging(chunk).in(i);
      std::fill_n(sums, room.length, 0.0f);
      for (int m = 0; m < layer.degree; ++m) {
        const std::byte* part = job_.in + static_cast<size_t>(m) * each + at;
        HORA_CO_TRY(read(room, part, layer.member(job_.me(), m), heads_[index],
                         [&](uint32_t place, float value) { sums[place] += value; }));
      }
      sums += room.length;
      at += room.bytes();
      if (job_.pause_is_due(chunk.count)) HORA_CO_TRY(co_await job_.lane.pause());
    }
    co_return Status();
  }

  Ticket send_to_all() {
    const auto ranks = static_cast<size_t>(job_.ranks());
    const size_t each = bytes_of_all([](const Merging& m) { return m.out(); });
    job_.all = job_.scratch(kAll, each * ranks);
    std::byte* part = job_.all + static_cast<size_t>(job_.me()) * each;
    const std::byte* mine = part;
    const int layers = butterfly_.layers();
    job_.begin_cursors();
    size_t sums = 0;
    uint32_t index = 0;
    Walk walk(job_.slots, 0);
    for (Chunk chunk; walk.next(chunk); ++index) {
      const Merging merging = this->merging(chunk);
      read_held(chunk, merging, layers, job_.said(chunk), sums, heads_[index]);
      const size_t first = merging.length() * static_cast<size_t>(job_.me());
      write(merging, index, merging.out(), 0, entries_.count, static_cast<uint32_t>(first), part);
      part += merging.out().bytes();
      if (layers > 0) sums += merging.in(layers - 1).length;
      if (job_.pause_is_due(chunk.count)) HORA_CO_TRY(co_await job_.lane.pause());
    }
    auto* bytes = reinterpret_cast<size_t*>(job_.scratch(kOther, ranks * sizeof(size_t)));
    std::fill_n(bytes, ranks, each);
    each_ = each;
    co_return co_await job_.communicator.allgather(
        job_.lane, Tag::of(job_.sequence, static_cast<uint64_t>(layers)), mine, job_.all,
        {bytes, ranks});
  }

  Status read_result(const Merging& merging, size_t at, uint32_t& head, std::span<float> result) {
    const float scale = job_.result_scale();
    for (int r = 0; r < job_.ranks(); ++r) {
      const size_t first = merging.length() * static_cast<size_t>(r);
      HORA_TRY(read(merging.out(), job_.all + static_cast<size_t>(r) * each_ + at, r, head,
                    [&](uint32_t place, float value) {
                      const size_t element = merging.element(static_cast<uint32_t>(first) + place);
                      if (element < result.size()) result[element] = scale * value;
                    }));
    }
    if (!all_finite(result.data(), result.size())) head = kPoisoned;
    if (head == kPoisoned) std::fill(result.begin(), result.end(), float_of(kPoison));
    return {};
  }

  Ticket read_results() {
    size_t at = 0;
    uint32_t index = 0;
    Walk walk(job_.slots, 0);
    for (Chunk chunk; walk.next(chunk); ++index) {
      const Merging merging = this->merging(chunk);
      const std::span<float> result = begin_result(job_, chunk);
      HORA_CO_TRY(read_result(merging, at, heads_[index], result));
      end_result(chunk, result);
      at += merging.out().bytes();
      if (job_.pause_is_due(chunk.count)) HORA_CO_TRY(co_await job_.lane.pause());
    }
    co_return Status();
  }

  /// Nothing can fail from here on. Of a chunk that is NaN all goes back to where it came from; of
  /// others what had no room goes into the memory of this rank.
  void settle() {
    const Left *left = left_.list, *const end = left + left_.count;
    std::sort(left_.list, left_.list + left_.count,
              [](const Left& a, const Left& b) { return a.chunk < b.chunk; });
    job_.begin_cursors();
    uint32_t index = 0;
    Walk walk(job_.slots, 0);
    for (Chunk chunk; walk.next(chunk); ++index) {
      const std::span<const std::byte> own = job_.said(chunk);
      const bool poisoned = heads_[index] == kPoisoned;
      if (poisoned) take_back(job_, chunk, own, nullptr);
      for (; left != end && left->chunk == index; ++left) {
        if (!poisoned) owe(job_.mine(chunk), chunk.first + left->element, left->value);
      }
    }
  }

  Job& job_;
  const Butterfly butterfly_;
  std::span<uint32_t> heads_;  // kPoisoned where a chunk is
  float* sums_ = nullptr;
  Entries entries_;
  struct {
    Left* list = nullptr;
    size_t count = 0;
  } left_;
  size_t each_ = 0;
};

}  // namespace

Ticket merge(Job& job) {
  Merge merge(job);
  co_return co_await merge.run();
}

uint64_t merged_bytes(std::span<const Slot> slots, int size, std::span<const int> degrees) {
  uint64_t total = 0;
  Walk walk(slots, 0);
  for (Chunk chunk; walk.next(chunk);)
    total += Merging(*chunk.slot->codec, chunk.count, size, degrees).bytes();
  return total;
}

}  // namespace hora::aggregation
