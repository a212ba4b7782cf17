#include "launcher/advice.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

namespace hora {
namespace {

constexpr std::string_view kAddSet = "add_process_set";
constexpr std::string_view kAdviceOnSets =
    "add every process set on all ranks, also on those outside of it";
constexpr std::string_view kAdviceOnSteps =
    "give all ranks equally many steps (a DistributedSampler; no `continue` or `break` on one rank "
    "alone), or call hora.join() when a rank's data run out";

/// None of those who are late has ever submitted it.
bool only_they_call(const Records& records, const Wait& wait) {
  const FlightOperation& missed = *wait.operations[0];
  return std::none_of(wait.late.begin(), wait.late.end(), [&](int rank) {
    return records.last(rank, missed.set, missed.name) != nullptr;
  });
}

}  // namespace

std::string_view advice_on_mismatch(std::string_view error) {
  constexpr std::pair<std::string_view, std::string_view> kAdvice[] = {
      {" has shape",
       "give the tensor one shape on all ranks. Is the last batch smaller on one of "
       "them (drop_last=True)? allgather takes unequal first dimensions"},
      {" has dtype", "cast the tensor to one type on all ranks"},
      {" has operation",
       "two operations have one name: give each a name of its own, and call the "
       "same one on all ranks"},
      {" has reduction", "give the same op= on all ranks"},
      {" has root", "give the same root_rank on all ranks, such as 0"},
      {" has compression", "give the same compression on all ranks; one job has one setting of it"},
  };
  for (const auto& [sign, advice] : kAdvice)
    if (error.find(sign) != error.npos) return advice;
  return "make the ranks agree in what the message names";
}

std::string advice_on_circle(const Records& records, const Wait& a, const Wait& b) {
  const FlightOperation &first = *a.operations[0], &second = *b.operations[0];
  if (first.name == second.name)
    return fmt::format(
        "'{}' is submitted in process set {} here and in {} there: call it for "
        "the same process set",
        first.name, first.set, second.set);
  for (const auto& [wait, other] : {std::pair(&a, &b), {&b, &a}}) {
    if (wait->operations[0]->op == kAddSet) return std::string(kAdviceOnSets);
    if (!only_they_call(records, *wait) || only_they_call(records, *other)) continue;
    return fmt::format(
        "only {0} ever called '{1}', and {2} called '{3}' once more. If '{1}' is evaluation, a "
        "metric or a barrier under a condition such as `if hora.rank() == 0`, call it on all "
        "ranks; if {2} ran more steps, {4}",
        ranks_text(wait->waiting), wait->operations[0]->name, ranks_text(other->waiting),
        other->operations[0]->name, kAdviceOnSteps);
  }
  return "call them in the same order on all ranks, under the same names";
}

std::string advice_on_wait(const Records& records, const Wait& wait) {
  const FlightOperation& missed = *wait.operations[0];
  const int rank = wait.late[0];
  const bool known = records.last(rank, missed.set, missed.name) != nullptr;
  switch (records.absence(rank)) {
    case Absence::kNoRecord:
    case Absence::kException:
      return {};  // told before
    case Absence::kEnded:
      if (missed.op == "join")
        return "call hora.join() on all ranks, each when its data have run out";
      if (missed.op == kAddSet) return std::string(kAdviceOnSets);
      return known ? std::string(kAdviceOnSteps)
                   : "call the same operations on all ranks. Do they build the same model? One "
                     "that has nothing to do may call hora.join()";
    case Absence::kElsewhere:
      return "see what that rank waits for itself";
    case Absence::kBusy:
      return "its stack says where it is. If it may take that long, raise HORA_STALL_WARNING "
             "and HORA_STALL_ABORT";
  }
  return {};
}

}  // namespace hora
