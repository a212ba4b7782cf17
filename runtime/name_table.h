#pragma once

#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>

#include "hora/request.h"
#include "hora/status.h"

namespace hora {

struct Operation;

/// One operation name of one process set.
struct Name {
  SetId set = 0;
  uint32_t number = 0;  ///< counts the table's names from 0
  std::string text;
  bool in_flight = false;          ///< guarded by the table's mutex
  uint32_t rounds = 0;             ///< submitted so often; the driver's
  std::deque<Operation*> waiting;  ///< unnamed operations whose turn comes when this one has ended
};

/// The names this rank has used, so that a name already in flight is refused where it is submitted,
/// and unnamed operations take turns on cyclic names (and so are cached like all others).
///
/// Threads: any.
class NameTable {
 public:
  /// `unnamed` is the number of cyclic names for each operation and set.
  explicit NameTable(uint32_t unnamed = 256) : unnamed_count_(unnamed) {}

  /// Names the operation after its request and marks the name as in flight. Errors:
  /// kInvalidArgument if it is already.
  Status begin(Operation& operation);

  /// Gives the operation the next cyclic name of its kind. False: that name is in flight, and end()
  /// of the operation before will return this one when its turn has come.
  bool begin_unnamed(Operation& operation);

  /// The name's operation has ended. Returns the operation whose turn it is now, or null.
  Operation* end(Name* name);

 private:
  struct Key {
    SetId set;
    std::string_view text;
    friend bool operator==(const Key&, const Key&) = default;
  };
  struct Hash {
    size_t operator()(const Key& key) const {
      return std::hash<std::string_view>()(key.text) ^ (size_t{key.set} * 0x9E3779B97F4A7C15u);
    }
  };
  Name* intern(SetId set, std::string_view text);

  const uint32_t unnamed_count_;
  std::mutex mutex_;  ///< guards everything below
  std::unordered_map<Key, std::unique_ptr<Name>, Hash> names_;
  std::unordered_map<uint64_t, uint32_t> unnamed_;  ///< (set, op) to the next number
};

}  // namespace hora
