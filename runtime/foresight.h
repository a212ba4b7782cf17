#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "runtime/vocabulary.h"
#include "runtime/wire.h"

namespace hora {

/// Carried operations that end at this rank before the log says that they run. With two hosts the
/// values of either cross the link at the same time: a rank that has announced an operation and has
/// heard what all others contribute knows that the root must let it run.
///
/// Such an operation stays here until the log has caught up with it, since a reset in between wants
/// it announced once more. The same name may be submitted again meanwhile.
///
/// Threads: its negotiator's. Nothing allocates once it has grown to its working size.
class Foresight {
 public:
  /// What an operation that has ended would be announced with.
  struct Ended {
    uint64_t hash = 0;   ///< of set and name
    bool again = false;  ///< it was announced once more
    Declare declare;
  };

  void announced(ItemId id, std::string_view values);  ///< this rank's subtree is ready
  void heard(ItemId id, std::string_view values);      ///< the others are
  /// If both were said: fills `all` with the contributions of all `members`, and forgets them.
  bool meet(ItemId id, size_t members, std::string& all);
  void forget(ItemId id);  ///< the log decided it first
  void clear();            ///< a reset: announcements are void; what has ended stays

  void ended(const Submission& submission, uint64_t hash, Rank me);
  /// Has one of this name ended that the log does not know yet?
  bool ahead(uint64_t hash, SetId set, std::string_view name) const;
  /// And was it announced again, so that its successor must not be, yet?
  bool blocks(uint64_t hash, SetId set, std::string_view name) const;
  /// The log has caught up with the oldest of this name. False if none has ended.
  bool caught_up(uint64_t hash, SetId set, std::string_view name);
  bool empty() const { return ended_.empty(); }
  std::vector<Ended>& all_ended() { return ended_; }

 private:
  struct Item {
    std::string announced, heard;
  };
  std::vector<Ended>::const_iterator find(uint64_t hash, SetId set, std::string_view name) const;

  std::unordered_map<ItemId, Item> items_;
  std::vector<Ended> ended_;  ///< oldest first
  std::vector<Ended> spare_;  ///< for their memory
};

}  // namespace hora
