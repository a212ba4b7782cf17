#include "runtime/shm_channel.h"

#include <poll.h>

#include <algorithm>
#include <utility>

namespace hora {
namespace {

class ShmChannel final : public ControlChannel {
 public:
  explicit ShmChannel(std::shared_ptr<shm::Neighborhood> neighborhood)
      : neighborhood_(std::move(neighborhood)),
        bell_(neighborhood_->bell(neighborhood_->options().rank)),
        watches_(neighborhood_->watches()) {
    for (const auto& watch : watches_) descriptors_.push_back(watch.fd);
  }

  Bell bell() const override { return bell_; }

  Status send(Rank to, std::string_view frame) override { return neighborhood_->send(to, frame); }

  bool flush() override {
    neighborhood_->flush();
    return neighborhood_->flushed();
  }

  bool receive(const Visit& visit) override {
    const auto got = neighborhood_->receive(visit);
    if (got.ok()) return got.value();
    if (corrupt_.ok()) corrupt_ = got.status();
    return false;
  }

  Status corrupt() const override { return corrupt_; }

  std::span<const int> watched() const override { return descriptors_; }

  std::vector<Lost> lost() override {
    std::vector<Lost> gone;
    for (const auto& watch : watches_) {
      const bool told = std::any_of(gone.begin(), gone.end(),
                                    [&](const Lost& each) { return each.rank == watch.rank; });
      if (!told && readable(watch.fd, 0)) gone.push_back({watch.rank, cause_of(watch)});
    }
    std::erase_if(watches_, [&](const auto& watch) {
      return std::any_of(gone.begin(), gone.end(),
                         [&](const Lost& each) { return each.rank == watch.rank; });
    });
    return gone;
  }

  void forget_in_child() override { neighborhood_->forget_in_child(); }

 private:
  static bool readable(int descriptor, int timeout_ms) {
    pollfd look{descriptor, POLLIN, 0};
    return ::poll(&look, 1, timeout_ms) > 0;
  }

  /// A dying process hangs up a moment before its end can be read; the end says more.
  std::string cause_of(const shm::Neighborhood::Watch& first) const {
    constexpr int kMomentMs = 20;
    for (const auto& other : watches_)
      if (other.rank == first.rank && other.fd != first.fd && readable(other.fd, kMomentMs))
        return neighborhood_->died(other.fd);
    return neighborhood_->died(first.fd);
  }

  const std::shared_ptr<shm::Neighborhood> neighborhood_;
  const Bell bell_;
  std::vector<shm::Neighborhood::Watch> watches_;
  std::vector<int> descriptors_;
  Status corrupt_;
};

}  // namespace

std::unique_ptr<ControlChannel> open_shm_channel(std::shared_ptr<shm::Neighborhood> neighborhood) {
  return std::make_unique<ShmChannel>(std::move(neighborhood));
}

}  // namespace hora
