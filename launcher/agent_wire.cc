#include "launcher/agent_wire.h"

#include <type_traits>
#include <utility>

#include <fmt/format.h>

namespace hora::agent_wire {
namespace {

constexpr size_t kLengthBytes = 4;

/// A message's fields in their order, for both directions.
template <class F>
void fields(Hello& m, F&& f) {
  f(m.protocol), f(m.version);
}
template <class F>
void fields(RankTask& m, F&& f) {
  f(m.arguments), f(m.environment);
}
template <class F>
void fields(Task& m, F&& f) {
  f(m.folder), f(m.store), f(m.sharers), f(m.ranks);
}
template <class F>
void fields(Refused& m, F&& f) {
  f(m.reason);
}
template <class F>
void fields(Start& m, F&& f) {
  f(m.task), f(m.environment);
}
template <class F>
void fields(Output& m, F&& f) {
  f(m.rank), f(m.error), f(m.bytes);
}
template <class F>
void fields(Ended& m, F&& f) {
  f(m.rank), f(m.pid), f(m.wait_status);
}
template <class F>
void fields(Record& m, F&& f) {
  f(m.name), f(m.content);
}
template <class F>
void fields(Kill& m, F&& f) {
  f(m.rank), f(m.signal);
}
template <class F>
void fields(Inspect& m, F&& f) {
  f(m.job), f(m.secret);
}
template <class F>
void fields(Inspected& m, F&& f) {
  f(m.store), f(m.cores), f(m.lacks);
}
template <class F>
void fields(Time& m, F&& f) {
  f(m.unix_nanoseconds);
}
template <class F>
void fields(Reach& m, F&& f) {
  f(m.to), f(m.store);
}
template <class F>
void fields(Reached& m, F&& f) {
  f(m.to), f(m.failure), f(m.round_trip_ns), f(m.bytes_per_second);
}
template <class M, class F>
  requires std::is_empty_v<M>
void fields(M&, F&&) {}

class Writer {
 public:
  void operator()(uint8_t value) { bytes.push_back(static_cast<char>(value)); }
  void operator()(uint32_t value) {
    for (int i = 0; i < 4; ++i) (*this)(static_cast<uint8_t>(value >> (8 * i)));
  }
  void operator()(uint64_t value) {
    (*this)(static_cast<uint32_t>(value));
    (*this)(static_cast<uint32_t>(value >> 32));
  }
  void operator()(const std::string& text) {
    (*this)(static_cast<uint32_t>(text.size()));
    bytes += text;
  }
  void operator()(RankTask& rank) { fields(rank, *this); }
  template <class T>
  void operator()(std::vector<T>& list) {
    (*this)(static_cast<uint32_t>(list.size()));
    for (T& item : list) (*this)(item);
  }

  std::string bytes;
};

/// Never reads beyond its bytes, and makes nothing larger than they are.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}

  void operator()(uint8_t& value) {
    const std::string_view taken = take(1);
    value = taken.empty() ? 0 : static_cast<uint8_t>(taken[0]);
  }
  void operator()(uint32_t& value) {
    value = 0;
    for (int i = 0; i < 4; ++i) {
      uint8_t byte = 0;
      (*this)(byte);
      value |= static_cast<uint32_t>(byte) << (8 * i);
    }
  }
  void operator()(uint64_t& value) {
    uint32_t low = 0, high = 0;
    (*this)(low);
    (*this)(high);
    value = low | static_cast<uint64_t>(high) << 32;
  }
  void operator()(std::string& text) {
    uint32_t length = 0;
    (*this)(length);
    text = take(length);
  }
  void operator()(RankTask& rank) { fields(rank, *this); }
  template <class T>
  void operator()(std::vector<T>& list) {
    uint32_t count = 0;
    (*this)(count);
    for (uint32_t i = 0; i < count && ok_; ++i) (*this)(list.emplace_back());
  }

  bool whole() const { return ok_ && bytes_.empty(); }

 private:
  std::string_view take(size_t count) {
    ok_ = ok_ && count <= bytes_.size();
    if (!ok_) return {};
    const std::string_view taken = bytes_.substr(0, count);
    bytes_.remove_prefix(count);
    return taken;
  }

  std::string_view bytes_;
  bool ok_ = true;
};

uint32_t number_at(std::string_view bytes) {
  uint32_t value = 0;
  Reader reader(bytes);
  reader(value);
  return value;
}

template <size_t... kKinds>
std::optional<Message> parse(size_t kind, std::string_view body, std::index_sequence<kKinds...>) {
  std::optional<Message> found;
  const auto try_kind = [&]<size_t kKind>() {
    if (kind != kKind) return;
    std::variant_alternative_t<kKind, Message> message;
    Reader reader(body);
    fields(message, reader);
    if (reader.whole()) found = std::move(message);
  };
  (try_kind.template operator()<kKinds>(), ...);
  return found;
}

Status not_ours(std::string text) {
  return Status(Code::kInvalidArgument, std::move(text));
}

}  // namespace

std::string encode(const Message& message) {
  Writer body;
  body(static_cast<uint8_t>(message.index()));
  Message copy = message;
  std::visit([&](auto& m) { fields(m, body); }, copy);
  Writer whole;
  whole(static_cast<uint32_t>(body.bytes.size()));
  return whole.bytes + body.bytes;
}

Result<std::optional<Message>> Inbox::next() {
  if (!greeted_) {
    const size_t at = bytes_.find(kGreeting);
    if (at == bytes_.npos) {
      if (bytes_.size() > kMaxNoise) return not_ours("what answers is no agent of Hora");
      return std::optional<Message>();
    }
    taken_ = at + kGreeting.size();
    greeted_ = true;
  }
  const std::string_view left = std::string_view(bytes_).substr(taken_);
  const uint32_t length = left.size() < kLengthBytes ? 0 : number_at(left.substr(0, kLengthBytes));
  if (left.size() >= kLengthBytes && (length < 1 || length > kMaxMessage))
    return not_ours(
        fmt::format("a message of {} bytes; at most {} are possible", length, kMaxMessage));
  if (left.size() < kLengthBytes || left.size() - kLengthBytes < length) {
    bytes_.erase(0, std::exchange(taken_, 0));
    return std::optional<Message>();
  }
  const auto kind = static_cast<uint8_t>(left[kLengthBytes]);
  std::optional<Message> message = parse(kind, left.substr(kLengthBytes + 1, length - 1),
                                         std::make_index_sequence<std::variant_size_v<Message>>());
  taken_ += kLengthBytes + length;
  if (!message) return not_ours(fmt::format("a message of kind {} is not what it should be", kind));
  return message;
}

}  // namespace hora::agent_wire
