#include <condition_variable>
#include <map>
#include <mutex>

#include <fmt/format.h>

#include "runtime/store.h"

namespace hora {
namespace {

class MemoryStore : public Store {
 public:
  Status set(std::string_view key, std::string_view value) override {
    {
      const std::lock_guard lock(mutex_);
      const auto [entry, added] = values_.try_emplace(std::string(key), value);
      if (!added && entry->second != value)
        return Status(Code::kInvalidArgument,
                      fmt::format("store: {} is set to another value", key));
    }
    changed_.notify_all();
    return {};
  }

  Result<std::string> get(std::string_view key, std::chrono::milliseconds timeout) override {
    std::unique_lock lock(mutex_);
    auto entry = values_.end();
    const auto present = [&] { return (entry = values_.find(key)) != values_.end(); };
    if (!changed_.wait_for(lock, timeout, present))
      return Status(Code::kTimeout,
                    fmt::format("store: nobody set {} within {} ms", key, timeout.count()));
    return entry->second;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, std::string, std::less<>> values_;  // guarded by mutex_
};

}  // namespace

std::shared_ptr<Store> make_memory_store() {
  return std::make_shared<MemoryStore>();
}

}  // namespace hora
