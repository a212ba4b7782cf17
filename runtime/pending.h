#pragma once

#include <string_view>
#include <vector>

#include "runtime/name_index.h"
#include "runtime/vocabulary.h"

namespace hora {

/// This rank's requests that are not wholly decided yet, in order of submission. Found by name, and
/// by the engine's pointer while they linger. Nothing allocates once it has grown to its working
/// size.
///
/// Threads: its negotiator's. Ownership: submissions are the engine's.
class Pending {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  struct Request {
    const Submission* submission = nullptr;
    uint64_t hash = 0;       ///< of set and name
    Time since = 0;          ///< when it was submitted
    Time ask_at = 0;         ///< when to ask (again) who is late
    bool handed = false;     ///< the engine owns the handle: its first slice went to a lane
    bool lingering = false;  ///< waits, unannounced, for the rest of its bucket
    bool behind = false;     ///< waits, unannounced, for the log to catch up with its predecessor
    std::vector<Rank> late;  ///< as the last stall report said
    uint32_t previous = kNone, next = kNone;
  };

  uint32_t find(SetId set, std::string_view name, uint64_t hash) const;
  uint32_t add(const Submission& submission, uint64_t hash, Time now, Time ask_at);
  void remove(uint32_t index);
  Request& operator[](uint32_t index) { return requests_[index]; }
  const Request& operator[](uint32_t index) const { return requests_[index]; }
  size_t count() const { return count_; }

  void linger(uint32_t index);
  void unlinger(uint32_t index);
  /// The lingering request at this address, which need not be valid any more; kNone if none is.
  uint32_t lingering(const Submission* submission) const;
  size_t lingering_count() const { return lingering_.count(); }

  uint32_t first() const { return first_; }  ///< the oldest, or kNone
  uint32_t next(uint32_t index) const { return requests_[index].next; }

 private:
  std::vector<Request> requests_;
  std::vector<uint32_t> free_;
  uint32_t first_ = kNone, last_ = kNone;
  size_t count_ = 0;
  NameIndex by_name_, lingering_;
};

}  // namespace hora
