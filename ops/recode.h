#pragma once

#include "ops/aggregate_job.h"

namespace hora::aggregation {

/// Parts go to their owners, who decode and add them in rank order, encode the sum with a memory of
/// their own, and send it to all, themselves included. In a vote owners count ballots.
///
/// Where the backend relays and sizes are fixed, a chunk travels as soon as it is encoded, and its
/// sum as soon as all have said theirs. Elsewhere all is encoded, sent, added up and sent back.
Ticket recode(Job& job);

/// After a recode that failed: what this rank has answered as an owner goes back into that memory.
void undo_answers(Job& job);

}  // namespace hora::aggregation
