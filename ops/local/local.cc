#include "ops/local/local.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "ops/local/communicator.h"
#include "ops/local/hub.h"

namespace hora::local {
namespace {

class LocalBackend final : public Backend {
 public:
  LocalBackend(std::shared_ptr<Hub> hub, Rank rank, std::span<const Bell> bells)
      : hub_(std::move(hub)), rank_(rank), bells_(bells.begin(), bells.end()) {}

  std::string_view name() const override { return "local"; }

  Result<std::unique_ptr<Communicator>> communicator(SetId set, std::span<const Rank> ranks,
                                                     int lane) override {
    const auto me = std::find(ranks.begin(), ranks.end(), rank_);
    if (me == ranks.end()) {
      return Status(Code::kInvalidArgument, "local: rank " + std::to_string(rank_) +
                                                " is no member of process set " +
                                                std::to_string(set));
    }
    Seat* const all = hub_->seats(lane);
    std::vector<Seat*> seats;
    std::vector<Bell> bells;
    for (const Rank rank : ranks) {
      if (rank < 0 || rank >= hub_->size()) {
        return Status(Code::kInvalidArgument, "local: process set " + std::to_string(set) +
                                                  " has rank " + std::to_string(rank) +
                                                  ", but there are " +
                                                  std::to_string(hub_->size()) + " ranks");
      }
      seats.push_back(all + rank);
      if (!bells_.empty()) bells.push_back(bells_[static_cast<size_t>(rank)]);
    }
    return std::unique_ptr<Communicator>(std::make_unique<LocalCommunicator>(
        hub_, std::move(seats), std::move(bells), static_cast<int>(me - ranks.begin())));
  }

 private:
  const std::shared_ptr<Hub> hub_;
  const Rank rank_;
  const std::vector<Bell> bells_;
};

}  // namespace

Seat* Hub::seats(int lane) {
  const std::lock_guard lock(mutex_);
  auto& seats = lanes_[lane];
  if (!seats) seats = std::make_unique<Seat[]>(static_cast<size_t>(size_));
  return seats.get();
}

std::shared_ptr<Hub> make_hub(int size) {
  return std::make_shared<Hub>(size);
}

std::unique_ptr<Backend> open(std::shared_ptr<Hub> hub, Rank rank, std::span<const Bell> bells) {
  return std::make_unique<LocalBackend>(std::move(hub), rank, bells);
}

}  // namespace hora::local
