#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace hora::shm {

/// How private memory is copied to where peers read it: through this core's caches, or past them
/// with streaming stores.
///
/// What a core has just written lies in its cache alone, and each line that a peer reads has to be
/// fetched from there. Between cores that share no cache this is up to six times slower than
/// reading what was streamed to memory; between near cores, and for messages that do not stay in
/// the cache, it is up to twice as fast. Which of the two holds depends on where the system puts
/// the ranks, now, so it is measured. The bytes are the same, hence so is every result.
///
/// All members of a group ask for the same operations in the same order, so that they try the same
/// way at the same time. Threads: one at a time.
class Staging {
 public:
  /// The way for the next operation of this many bytes.
  bool streams(size_t bytes);
  /// What that operation cost, in any unit of time.
  void took(uint64_t time);

  /// The processor's counter; 0 where it has none (then there is no choice either).
  static uint64_t ticks();
  static void copy(std::byte* to, const std::byte* from, size_t bytes, bool streams);

 private:
  static constexpr size_t kClasses = 64;
  static constexpr uint32_t kPeriod = 128;  ///< operations between two trials
  static constexpr size_t kWays = 2, kTrials = 2;
  static constexpr uint32_t kFirst = 8;  ///< so many at the beginning, until memory is warm

  struct Class {
    uint32_t operations = 0;
    std::array<std::array<uint64_t, kTrials>, kWays> times{};  ///< of the last trials
    uint64_t best(size_t way) const;
  };
  std::array<Class, kClasses> classes_;
  Class* current_ = nullptr;
  bool trial_ = false;
  size_t way_ = 0;
};

}  // namespace hora::shm
