#include "hora/membership.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <vector>

#include <fmt/format.h>

#include "runtime/quantity.h"
#include "runtime/store.h"

namespace hora {
namespace {

using std::chrono::milliseconds;

constexpr std::string_view kAsk = "elastic/ask/";

/// `text` as `count` whole numbers with `separator` between them.
std::optional<std::vector<uint64_t>> numbers_in(std::string_view text, char separator,
                                                size_t count) {
  std::vector<uint64_t> numbers;
  while (numbers.size() < count) {
    const size_t end = std::min(text.find(separator), text.size());
    const auto number = parse_integer(text.substr(0, end));
    if (!number) return {};
    numbers.push_back(*number);
    if (numbers.size() == count) return end == text.size() ? std::optional(numbers) : std::nullopt;
    if (end == text.size()) return {};
    text.remove_prefix(end + 1);
  }
  return {};
}

class StoreMembership final : public Membership {
 public:
  StoreMembership(std::shared_ptr<Store> store, int worker)
      : store_(std::move(store)), worker_(worker) {}

  Status ask() override {
    const membership::Ask next{worker_, asked_.load() + 1};
    HORA_TRY(store_->set(membership::ask_key(next), ""));
    asked_.store(next.number);
    return {};
  }

  Result<Place> answer(milliseconds timeout) override {
    auto got = store_->get(membership::answer_key({worker_, asked_.load()}), timeout);
    if (!got.ok()) return got.status();
    if (got.value() == membership::kLeave)
      return Status(Code::kShutdown, "the job goes on without this process: fewer slots are left");
    const auto place = membership::parse_place(got.value());
    if (!place)
      return Status(Code::kCorrupt, fmt::format("horarun: no place in \"{:.100}\"", got.value()));
    return *place;
  }

  bool await_change(uint32_t epoch) override {
    for (;;) {
      const auto got = store_->get(membership::change_key(epoch), kRenew);
      if (got.ok()) return got.value() == membership::kChange;
      if (got.status().code() != Code::kTimeout) return false;
    }
  }

  void leave(uint32_t epoch) override {
    // Refused if the launcher was first, which ends the wait as well.
    (void)store_->set(membership::change_key(epoch), membership::kNoChange);
  }

 private:
  static constexpr milliseconds kRenew{3'600'000};

  const std::shared_ptr<Store> store_;
  const int worker_;
  std::atomic<uint64_t> asked_{0};
};

}  // namespace

Result<std::unique_ptr<Membership>> Membership::open(const Config& config) {
  const auto wait = milliseconds(static_cast<int64_t>(config.start_timeout * 1e3));
  auto store = connect_store(config.store, wait, key_of(config));
  if (!store.ok()) return store.status();
  return std::unique_ptr<Membership>(
      std::make_unique<StoreMembership>(std::move(store).value(), config.worker));
}

namespace membership {

std::string ask_key(const Ask& ask) {
  return fmt::format("{}{}/{}", kAsk, ask.worker, ask.number);
}

std::optional<Ask> parse_ask(std::string_view key) {
  if (!key.starts_with(kAsk)) return {};
  const auto numbers = numbers_in(key.substr(kAsk.size()), '/', 2);
  if (!numbers || (*numbers)[0] > INT32_MAX) return {};
  return Ask{static_cast<int>((*numbers)[0]), (*numbers)[1]};
}

std::string answer_key(const Ask& ask) {
  return fmt::format("elastic/answer/{}/{}", ask.worker, ask.number);
}

std::string change_key(uint32_t epoch) {
  return fmt::format("elastic/change/{}", epoch);
}

std::string text_of(const Place& place) {
  return fmt::format("{} {} {} {} {} {} {}", place.epoch, place.rank, place.size, place.local_rank,
                     place.local_size, place.cross_rank, place.cross_size);
}

std::optional<Place> parse_place(std::string_view text) {
  const auto numbers = numbers_in(text, ' ', 7);
  if (!numbers || (*numbers)[0] > UINT32_MAX) return {};
  const auto number = [&](size_t i) { return static_cast<int>((*numbers)[i]); };
  for (size_t i = 1; i < numbers->size(); i += 2)  // a rank and the size that it is below
    if ((*numbers)[i + 1] > INT32_MAX || (*numbers)[i] >= (*numbers)[i + 1]) return {};
  return Place{static_cast<uint32_t>((*numbers)[0]),
               number(1),
               number(2),
               number(3),
               number(4),
               number(5),
               number(6)};
}

}  // namespace membership
}  // namespace hora
