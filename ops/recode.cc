#include "ops/recode.h"

#include <algorithm>

namespace hora::aggregation {
namespace {

/// What is left of a walk; `chunk` is the next.
struct Front {
  Walk walk;
  Chunk chunk = {};
  bool left = false;

  Front(const Job& job, int owner) : walk(job.slots, job.ranks()), owner_(owner) { advance(); }
  void advance() {
    do {
      left = walk.next(chunk);
    } while (left && owner_ >= 0 && chunk.owner != owner_);
  }

 private:
  const int owner_;  ///< of the chunks that count; -1: all do
};

constexpr int kEveryOwner = -1;

/// The work of a recode, in portions. Each kind goes through the chunks in the order of the walk.
class Recoding final : public Relay {
 public:
  explicit Recoding(Job& job)
      : job_(job),
        to_say_(job, kEveryOwner),
        to_answer_(job, job.me()),
        to_read_(job, kEveryOwner) {
    const auto ranks = static_cast<size_t>(job.ranks());
    auto* const table = reinterpret_cast<size_t*>(job.scratch(kThere, 2 * ranks * sizeof(size_t)));
    said = {job.out, job.there.ends, job.there.cursors};
    heard = {job.in, job.from.ends, {table, ranks}};
    answers = {job.all, job.back.ends, {table + ranks, ranks}};
    for (size_t r = 0; r < ranks; ++r) {
      heard.there[r] = heard.begin(r);
      answers.there[r] = answers.begin(r);
    }
  }

  bool say() override {
    return portion(
        to_say_, [](const Chunk&) { return true; },
        [this](const Chunk& chunk) {
          encode(job_, chunk);
          return Status();
        });
  }
  bool answer() override {
    return portion(
        to_answer_, [this](const Chunk& chunk) { return all_have_said(chunk); },
        [this](const Chunk& chunk) { return answer(chunk); });
  }
  bool read() override {
    return portion(
        to_read_, [this](const Chunk& chunk) { return verdict_.status.ok() && is_answered(chunk); },
        [this](const Chunk& chunk) { return read(chunk); });
  }

  /// All that is still to be said, after a failure: then all of the gradient is owed.
  void say_rest() {
    status = {};
    while (say()) continue;
  }

  size_t answered() const { return answered_; }  ///< bytes
  bool finite() const { return finite_; }        ///< all that was read
  const Verdict& verdict() const { return verdict_; }

 private:
  /// Some of the work of one kind.
  template <class Ready, class Work>
  bool portion(Front& front, Ready ready, Work work) {
    size_t done = 0;
    while (done < kBetweenPauses && status.ok() && front.left && ready(front.chunk)) {
      status = work(front.chunk);
      done += front.chunk.count;
      front.advance();
    }
    return done > 0;
  }

  /// Unless sizes vary all payloads of a chunk lie equally far from the beginnings of their parts;
  /// ballots are read through the first part.
  bool all_have_said(const Chunk& chunk) const {
    const size_t until = job_.from.cursors[0] + aligned(chunk.bytes);
    for (size_t r = 0; r < heard.ends.size(); ++r) {
      const size_t there = heard.there[r];
      if (there != heard.ends[r] && there - heard.begin(r) < until) return false;
    }
    return true;
  }

  bool is_answered(const Chunk& chunk) const {
    const auto owner = static_cast<size_t>(chunk.owner);
    const size_t there = answers.there[owner];
    return there == answers.ends[owner] ||
           there - job_.back.cursors[owner] >= aligned(chunk.back_bytes);
  }

  Status answer(const Chunk& chunk) {
    std::byte* const to = job_.own + answered_;
    HORA_TRY(job_.votes ? count_ballots(chunk, to) : encode_sum(chunk, to));
    answered_ += filled_up(chunk.slot->second(), to, chunk.count, chunk.back_bytes);
    if (!job_.back_varies) {
      const auto me = static_cast<size_t>(job_.me());
      answers.there[me] = answers.begin(me) + answered_;
    }
    return {};
  }

  Status encode_sum(const Chunk& chunk, std::byte* to) {
    const std::span<float> sum(job_.floats(kStage, chunk.count), chunk.count);
    std::fill(sum.begin(), sum.end(), 0.0f);
    HORA_TRY(add_up(job_, chunk, job_.in, sum, 1.0f));
    chunk.slot->second().encode(job_.owner_turn(*chunk.slot),
                                {sum.data(), chunk.first, chunk.count}, job_.owned(chunk), to);
    ++job_.recoded;
    return {};
  }

  /// Ballots lie as far apart as those for this owner take.
  Status count_ballots(const Chunk& chunk, std::byte* to) {
    const Codec& codec = *chunk.slot->codec;
    const auto first = job_.from.read(0, job_.in, codec, chunk.count, chunk.bytes);
    return codec.vote(first.data(), job_.from.sizes[0], static_cast<size_t>(job_.ranks()),
                      chunk.count, to);
  }

  Status read(const Chunk& chunk);

  Job& job_;
  Front to_say_, to_answer_, to_read_;
  size_t answered_ = 0;
  bool finite_ = true;
  Verdict verdict_;
};

Status answer_of_owner(Job& job, const Chunk& chunk, std::span<float> result) {
  const Codec& codec = chunk.slot->second();
  const auto payload = job.back.read(chunk.owner, job.all, codec, chunk.count, chunk.back_bytes);
  return blamed(codec.decode_add(job.owner_turn(*chunk.slot), payload, chunk.first, result,
                                 job.result_scale()),
                chunk, chunk.owner);
}

/// Nothing is read after a verdict: it is an error.
Status Recoding::read(const Chunk& chunk) {
  const std::span<float> result = begin_result(job_, chunk);
  HORA_TRY(answer_of_owner(job_, chunk, result));
  verdict_ = judge(*chunk.slot, result);
  if (verdict_.status.ok()) finite_ = end_result(chunk, result) && finite_;
  return {};
}

/// One after the other, for a backend that only moves bytes.
Ticket take_turns(Job& job, Recoding& work) {
  const auto me = static_cast<size_t>(job.me());
  while (work.say()) HORA_CO_TRY(co_await job.lane.pause());
  if (job.varies) {
    pack(job);
    HORA_CO_TRY(co_await tell_sizes(job, job.there.sizes, job.from));
  }
  job.count_sent(job.there.begin() - job.there.sizes[me]);
  HORA_CO_TRY(co_await job.communicator.alltoall(job.lane, job.next_tag(), job.out, job.there.sizes,
                                                 job.in, job.from.sizes));
  work.heard.all_there();
  while (work.answer()) HORA_CO_TRY(co_await job.lane.pause());
  HORA_CO_TRY(work.status);
  if (!job.votes) HORA_CO_TRY(all_read(job.from));
  const size_t bytes = work.answered();
  if (job.back_varies) HORA_CO_TRY(co_await tell_sizes(job, {&bytes, 1}, job.back));
  job.count_sent(bytes * (job.back.sizes.size() - 1));
  HORA_CO_TRY(co_await job.communicator.allgather(job.lane, job.next_tag(), job.own, job.all,
                                                  job.back.sizes));
  work.answers.all_there();
  while (work.read()) HORA_CO_TRY(co_await job.lane.pause());
  co_return work.status;
}

}  // namespace

Ticket recode(Job& job) {
  const auto ranks = static_cast<size_t>(job.ranks()), me = static_cast<size_t>(job.me());
  job.out = job.scratch(kOut, lay_out(job, job.ranks(), ranks));
  job.in = job.scratch(kIn, job.there.sizes[me] * ranks);
  job.all = job.scratch(kAll, job.back.begin());
  job.own =
      job.back_varies ? job.scratch(kOwn, job.back.sizes[me]) : job.all + job.back.cursors[me];
  Recoding work(job);
  Status moved;
  if (job.varies || job.back_varies || !job.communicator.relays())
    moved = co_await take_turns(job, work);
  else
    moved = co_await job.communicator.relay(job.lane, job.next_tag(), work);
  if (!moved.ok()) {
    work.say_rest();
    co_return moved;
  }
  if (!work.verdict().status.ok()) co_return co_await complete(job, work.verdict());
  HORA_CO_TRY(all_read(job.back));
  const Verdict fine;
  HORA_CO_TRY(co_await complete(job, fine));
  if (work.finite()) co_return Status();
  // From here on nothing can fail: what the poisoned blocks did not use goes back.
  job.begin_cursors();
  Walk walk(job.slots, job.ranks());
  for (Chunk chunk; walk.next(chunk);) {
    const std::span<float> result(job.floats(kStage, chunk.count), chunk.count);
    std::fill(result.begin(), result.end(), 0.0f);
    HORA_CO_TRY(answer_of_owner(job, chunk, result));
    take_back(job, chunk, job.said(chunk), result.data());
  }
  co_return Status();
}

/// An owner that has encoded a sum has E' = (sum + E) - said; the sum itself goes back to those who
/// sent it, so E = E' + said - sum. Where anything is poisoned E had stayed as it was.
void undo_answers(Job& job) {
  job.begin_cursors();
  const std::byte* own = job.own;
  Walk walk(job.slots, job.ranks());
  size_t undone = 0;
  for (Chunk chunk; undone < job.recoded && walk.next(chunk);) {
    if (chunk.owner != job.me()) continue;
    State& owned = job.owned(chunk);
    const Codec& codec = chunk.slot->second();
    const size_t bytes = codec.used_bytes({own, chunk.back_bytes}, chunk.count);
    const std::span<float> back(job.floats(kStage, chunk.count), chunk.count);
    std::fill(back.begin(), back.end(), 0.0f);
    Status status =
        codec.decode_add(job.owner_turn(*chunk.slot), {own, bytes}, chunk.first, back, 1.0f);
    if (status.ok()) status = add_up(job, chunk, job.in, back, -1.0f);
    HORA_CHECK(status.ok(), status.message());  // both were decoded or written before
    for (size_t i = 0; i < chunk.count; ++i) {
      if (is_finite(back[i])) owe(owned, chunk.first + i, back[i]);
    }
    own += aligned(bytes);
    ++undone;
  }
}

}  // namespace hora::aggregation
