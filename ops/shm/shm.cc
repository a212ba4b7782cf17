#include "ops/shm/shm.h"

#include <unistd.h>

#include <vector>

#include <sys/syscall.h>

#include "ops/shm/communicator.h"

namespace hora::shm {
namespace {

class ShmBackend final : public Backend {
 public:
  explicit ShmBackend(std::shared_ptr<Neighborhood> neighborhood)
      : neighborhood_(std::move(neighborhood)) {
    for (int i = 0; i < neighborhood_->options().lanes; ++i)
      debts_.push_back(std::make_shared<LaneDebts>());
  }

  std::string_view name() const override { return "shm"; }

  Result<std::unique_ptr<hora::Communicator>> communicator(SetId set, std::span<const Rank> ranks,
                                                           int lane) override {
    if (lane < 0 || lane >= neighborhood_->options().lanes)
      return Status(Code::kInvalidArgument, "shm: there is no lane " + std::to_string(lane));
    auto group = std::make_shared<Group>();
    bool member = false;
    for (const Rank rank : ranks) {
      const int index = neighborhood_->index_of(rank);
      if (index < 0)
        return Status(Code::kUnavailable, "shm: rank " + std::to_string(rank) + " of set " +
                                              std::to_string(set) + " is not on this host");
      if (rank == neighborhood_->options().rank) {
        group->self = group->members.size();
        member = true;
      }
      group->members.push_back({&neighborhood_->window(index).lane(lane), neighborhood_->bell(rank),
                                neighborhood_->arena_of(index),
                                neighborhood_->arena_bytes_of(index)});
    }
    if (!member)
      return Status(Code::kInvalidArgument, "shm: this rank is not in set " + std::to_string(set));
    return std::unique_ptr<hora::Communicator>(std::make_unique<ShmCommunicator>(
        neighborhood_, std::move(group), debts_[static_cast<size_t>(lane)]));
  }

  Result<std::span<std::byte>> arena(size_t bytes) override {
    return neighborhood_->arena().allocate(bytes);
  }

 private:
  const std::shared_ptr<Neighborhood> neighborhood_;
  std::vector<std::shared_ptr<LaneDebts>> debts_;  ///< by lane
};

}  // namespace

std::unique_ptr<Backend> open(std::shared_ptr<Neighborhood> neighborhood) {
  return std::make_unique<ShmBackend>(std::move(neighborhood));
}

bool available() {
  const Descriptor self(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)));
  return self.valid() && make_memory("hora-probe").ok();
}

}  // namespace hora::shm
