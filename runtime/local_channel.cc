#include <unistd.h>

#include <deque>
#include <mutex>
#include <utility>

#include <sys/eventfd.h>

#include "runtime/control_channel.h"
#include "runtime/recycled.h"

namespace hora {

class LocalChannels {
 public:
  struct Box {
    std::mutex mutex;
    Recycled<std::pair<Rank, std::string>> frames;  ///< guarded by mutex
    std::atomic<uint32_t> armed{0}, waiting{0};
    int eventfd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    ~Box() { ::close(eventfd); }
    Bell bell() { return Bell(&armed, eventfd); }
  };

  explicit LocalChannels(int size) : boxes_(static_cast<size_t>(size)) {}
  Box& box(Rank rank) { return boxes_[static_cast<size_t>(rank)]; }
  std::deque<Box>& boxes() { return boxes_; }

 private:
  std::deque<Box> boxes_;
};

namespace {

class LocalChannel final : public ControlChannel {
 public:
  LocalChannel(std::shared_ptr<LocalChannels> channels, Rank rank)
      : channels_(std::move(channels)), mine_(channels_->box(rank)), rank_(rank) {}

  Bell bell() const override { return mine_.bell(); }

  Status send(Rank to, std::string_view frame) override {
    auto& box = channels_->box(to);
    {
      const std::lock_guard lock(box.mutex);
      auto& [from, bytes] = box.frames.next();
      from = rank_;
      bytes.assign(frame);
      box.waiting.store(1, std::memory_order_release);
    }
    box.bell().ring();
    return {};
  }

  bool flush() override { return true; }

  bool receive(const Visit& visit) override {
    if (mine_.waiting.load(std::memory_order_acquire) == 0) return false;
    taken_.clear();
    {
      const std::lock_guard lock(mine_.mutex);
      std::swap(taken_, mine_.frames);
      mine_.waiting.store(0, std::memory_order_relaxed);
    }
    for (const auto& [from, frame] : taken_) visit(from, frame);
    return !taken_.empty();
  }

  std::span<const int> watched() const override { return {}; }
  std::vector<Lost> lost() override { return {}; }
  void forget_in_child() override {}

 private:
  const std::shared_ptr<LocalChannels> channels_;
  LocalChannels::Box& mine_;
  const Rank rank_;
  Recycled<std::pair<Rank, std::string>> taken_;
};

}  // namespace

std::shared_ptr<LocalChannels> make_local_channels(int size) {
  return std::make_shared<LocalChannels>(size);
}

std::unique_ptr<ControlChannel> open_local_channel(std::shared_ptr<LocalChannels> channels,
                                                   Rank rank) {
  return std::make_unique<LocalChannel>(std::move(channels), rank);
}

std::vector<Bell> bells_of(LocalChannels& channels) {
  std::vector<Bell> bells;
  for (auto& box : channels.boxes()) bells.push_back(box.bell());
  return bells;
}

}  // namespace hora
