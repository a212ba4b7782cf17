// Channel 0 carries what is said to owners, channel 1 answers, which overtake it. Both go in
// messages of a size that follows from the part's, each as soon as its bytes are there.

#include <algorithm>
#include <cstring>

#include "ops/tcp/communicator.h"
#include "ops/tcp/run.h"

namespace hora::tcp {
namespace {

constexpr size_t kSmallestMessage = 16 << 10, kLargestMessage = 256 << 10;
constexpr size_t kMessages = 8;  // of a part, if they do not become too small

size_t message_of(size_t part) {
  return std::clamp((part + kMessages - 1) / kMessages, kSmallestMessage, kLargestMessage);
}

/// A member's part, in messages.
struct Cut {
  size_t begin, end, size;

  Cut(const Relay::Parts& parts, size_t member)
      : begin(parts.begin(member)), end(parts.ends[member]), size(message_of(end - begin)) {}
  uint32_t count() const { return static_cast<uint32_t>((end - begin + size - 1) / size); }
  size_t from(uint32_t index) const { return begin + index * size; }
  size_t until(uint32_t index) const { return std::min(end, from(index + 1)); }
};

}  // namespace

struct TcpCommunicator::Relaying {
  TcpCommunicator* self;
  Relay* relay;
  size_t own = 0;         ///< bytes that this member has said to itself
  uint32_t answered = 0;  ///< messages to each of the others

  void start(Lane&) {
    const auto assign = [](Memory& memory, const Relay::Parts& parts) {
      memory.assign(parts.data, parts.ends.back());
    };
    assign(self->in_, relay->said);
    assign(self->arrived_, relay->heard);
    assign(self->out_, relay->answers);
    std::fill(self->ways_.begin(), self->ways_.end(), Way());
    for (size_t i = 1; i < self->members(); ++i) {
      expect(self->other(i), 0, self->arrived_, relay->heard);
      expect(self->other(i), 1, self->out_, relay->answers);
    }
  }
  void expect(size_t member, uint32_t channel, const Memory& memory, const Relay::Parts& parts) {
    const Cut cut(parts, member);
    for (uint32_t k = 0; k < cut.count(); ++k)
      self->expect(member, channel, k, memory, cut.from(k), cut.until(k) - cut.from(k));
  }

  /// Answers first: others wait for them. What is read nobody waits for.
  bool step() {
    for (size_t i = 1; i < self->members(); ++i) {
      const size_t peer = self->other(i);
      take(peer, 0, relay->heard, self->ways_[peer].heard);
      take(peer, 1, relay->answers, self->ways_[peer].answered);
    }
    const bool worked = relay->answer() || relay->say() || relay->read();
    pass_on();
    if (relay->status.ok()) return worked;
    self->links_->retire(relay->status);
    return true;  // to the error, even if nothing is left to send or receive
  }

  /// Takes note of messages that have come.
  void take(size_t member, uint32_t channel, Relay::Parts& parts, uint32_t& count) {
    const Cut cut(parts, member);
    while (count < cut.count() && self->received(member, channel, count))
      parts.there[member] = cut.until(count++);
  }

  void pass_on() {
    const size_t me = self->self();
    const Relay::Parts &said = relay->said, &heard = relay->heard, &answers = relay->answers;
    const size_t whole = said.there[me] - said.begin(me);
    if (whole > own) {
      std::memcpy(heard.data + heard.begin(me) + own, said.data + said.begin(me) + own,
                  whole - own);
      own = whole;
      heard.there[me] = heard.begin(me) + own;
    }
    for (size_t i = 1; i < self->members(); ++i) {
      const size_t peer = self->other(i);
      const Cut cut(said, peer);
      for (uint32_t& k = self->ways_[peer].said;
           k < cut.count() && cut.until(k) <= said.there[peer]; ++k)
        self->send(peer, 0, k, self->in_, cut.from(k), cut.until(k) - cut.from(k));
    }
    const Cut cut(answers, me);
    for (; answered < cut.count() && cut.until(answered) <= answers.there[me]; ++answered)
      for (size_t i = 1; i < self->members(); ++i)
        self->send(self->other(i), 1, answered, self->out_, cut.from(answered),
                   cut.until(answered) - cut.from(answered));
  }
  void finish() {}
};

Ticket TcpCommunicator::relay(Lane& lane, uint64_t tag, Relay& relay) {
  return run(lane, tag, Relaying{this, &relay});
}

}  // namespace hora::tcp
