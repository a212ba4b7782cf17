#include "runtime/fork_guard.h"

#include <pthread.h>

#include <mutex>

namespace hora {
namespace {

struct Registry {
  std::mutex mutex;
  ForkGuard* first = nullptr;
};

Registry& registry() {
  static Registry instance;
  return instance;
}

void before() {
  registry().mutex.lock();
}
void parent() {
  registry().mutex.unlock();
}

}  // namespace

void ForkGuard::child() {
  for (ForkGuard* guard = registry().first; guard; guard = guard->next_) {
    guard->foreign_.store(true, std::memory_order_relaxed);
    guard->in_child();
  }
  registry().mutex.unlock();
}

ForkGuard::ForkGuard() {
  static const int registered = ::pthread_atfork(&before, &parent, &ForkGuard::child);
  (void)registered;
  const std::lock_guard lock(registry().mutex);
  next_ = registry().first;
  if (next_) next_->previous_ = this;
  registry().first = this;
}

ForkGuard::~ForkGuard() {
  const std::lock_guard lock(registry().mutex);
  (previous_ ? previous_->next_ : registry().first) = next_;
  if (next_) next_->previous_ = previous_;
}

}  // namespace hora
