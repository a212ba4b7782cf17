#pragma once

#include <map>
#include <vector>

#include "runtime/slot_set.h"
#include "runtime/wire.h"

namespace hora {

/// One node's open questions "who lacks this operation?": sums the answers of its slots, and passes
/// the sum on when the last has come. Cold: nothing happens here unless somebody is late.
///
/// Threads: its negotiator's.
class StallQuestions {
 public:
  /// Opens a question that `waiting` slots are to answer.
  void open(uint32_t query, size_t waiting);

  /// This rank is late: its answer, with or without text, comes by the deadline.
  void expect_own(uint32_t query, Rank me, Time deadline);

  /// Slot 0 answers with what this rank says about itself. Ignored if it is too late.
  void own_text(uint32_t query, std::string text, std::vector<Missing>& complete);

  void hear(uint32_t query, size_t slot, const Missing& answer, std::vector<Missing>& complete);

  /// Answers without text where the deadline has passed.
  void expire(Time now, std::vector<Missing>& complete);
  Time next_deadline() const;

 private:
  struct Question {
    size_t waiting = 0;
    SlotSet heard;
    Missing sum;
    Rank me = -1;
    Time deadline = kNever;  ///< of this rank's own answer
  };
  std::map<uint32_t, Question> open_;
};

}  // namespace hora
