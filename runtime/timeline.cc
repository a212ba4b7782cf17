#include "runtime/timeline.h"

#include <pthread.h>

#include <chrono>
#include <filesystem>
#include <utility>

#include <fmt/format.h>

namespace hora {
namespace {

// What is on disk is at most so old, and a request is told of when it has waited so long.
constexpr std::chrono::milliseconds kPeriod{50};
constexpr int64_t kLong = 1'000'000'000;

std::string before_extension(const std::string& path, const std::string& part) {
  std::filesystem::path name(path);
  const std::string extension = name.extension();
  name.replace_extension();
  return name.string() + part + extension;
}

}  // namespace

std::string Timeline::path_of(const std::string& path, int rank) {
  return rank == 0 ? path : before_extension(path, fmt::format(".{}", rank));
}

std::string Timeline::path_in_epoch(const std::string& path, uint32_t epoch) {
  return epoch == 1 ? path : before_extension(path, fmt::format(".epoch{}", epoch));
}

void Timeline::record_aside(const Moment& moment) {
  if (!aside_->push(moment)) dropped_.fetch_add(1, std::memory_order_relaxed);
}

void Timeline::record_range(std::string_view name, int64_t began) {
  if (!on()) return;
  Moment moment =
      Moment::of(Moment::Kind::kRange, began, nullptr, static_cast<uint64_t>(clock_.now()), 0, 0);
  {
    const std::lock_guard lock(mutex_);
    moment.text = &*texts_.emplace(name).first;
  }
  record_aside(moment);
}

Status Timeline::start(const std::string& path, TimelineFile::Origin origin, uint64_t bound) {
  const std::lock_guard control(control_);
  if (writer_.joinable())
    return Status(Code::kInvalidArgument,
                  fmt::format("a timeline is being written to {}: stop it first", path_));
  origin.now = clock_.now();
  origin.unix_ns = unix_time();
  path_ = path_of(path, origin.rank);
  auto file = TimelineFile::create(path_, origin, bound);
  if (!file.ok()) return file.status();
  file_ = std::move(file).value();
  failed_ = {};
  told_dropped_ = dropped();
  if (!ring_) {
    ring_ = std::make_unique<Ring>(kCapacity);
    aside_ = std::make_unique<Aside>(kAsideCapacity);
  }
  // What came after the last stop belongs to nobody.
  ring_->consume_all([](const Moment&) {});
  aside_->consume_all([](const Moment&) {});
  stopping_ = false;
  writer_ = std::thread([this] { run(); });
  on_.store(true, std::memory_order_release);
  return {};
}

Status Timeline::stop() {
  const std::lock_guard control(control_);
  on_.store(false, std::memory_order_release);
  if (!writer_.joinable()) return {};
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  writer_.join();
  file_.reset();
  return std::exchange(failed_, {});
}

// Without the mutex: a word that the writer misses is as good as the next period's end.
void Timeline::ring() {
  since_ring_ = 0;
  rung_.store(true, std::memory_order_relaxed);
  wake_.notify_one();
}

void Timeline::run() {
  ::pthread_setname_np(::pthread_self(), "hora-timeline");
  for (bool last = false; !last;) {
    {
      std::unique_lock lock(mutex_);
      wake_.wait_for(lock, kPeriod,
                     [this] { return stopping_ || rung_.load(std::memory_order_relaxed); });
      rung_.store(false, std::memory_order_relaxed);
      last = stopping_;
    }
    drain();
  }
}

void Timeline::drain() {
  const auto flush = [this] {
    if (failed_.ok()) failed_ = file_->flush();
  };
  const auto add = [&](const Moment& moment) {
    file_->add(moment);
    if (file_->unflushed() >= kFlushBytes) flush();
  };
  ring_->consume_all(add);
  aside_->consume_all(add);
  const int64_t now = clock_.now();
  file_->tell_waiting(now, kLong);
  if (const uint64_t lost = dropped(); lost != told_dropped_)
    file_->tell_dropped(lost - std::exchange(told_dropped_, lost), now);
  flush();
  if (file_->full() || !failed_.ok()) on_.store(false, std::memory_order_release);
}

}  // namespace hora
