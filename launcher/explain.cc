#include "launcher/explain.h"

#include <algorithm>
#include <map>
#include <set>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "launcher/advice.h"
#include "launcher/waits.h"

namespace hora {
namespace {

constexpr size_t kNames = 5;    // told of several operations with one fate
constexpr size_t kErrors = 20;  // told of those that ended operations
constexpr size_t kFrames = 4;   // of a stack

using Ranks = std::vector<int>;

std::string upper_first(std::string text) {
  if (!text.empty() && text[0] >= 'a' && text[0] <= 'z')
    text[0] = static_cast<char>(text[0] - 'a' + 'A');
  return text;
}

std::string times(uint64_t count) {
  return count == 1 ? "once" : fmt::format("{} times", count);
}

std::string describe(const FlightOperation& operation) {
  std::string text = fmt::format("'{}' ({}", operation.name, operation.op);
  if (operation.tensors > 0) {
    text += fmt::format(" of {} [{}]", operation.dtype, fmt::join(operation.shape, ", "));
    if (operation.tensors > 1) text += fmt::format(" and {} more", operation.tensors - 1);
  }
  if (operation.set != 0) text += fmt::format(", process set {}", operation.set);
  return text + ")";
}

std::string describe(const Wait& wait) {
  std::vector<std::string> names;
  for (size_t i = 0; i < std::min(wait.operations.size(), kNames); ++i)
    names.push_back(describe(*wait.operations[i]));
  if (wait.operations.size() > kNames)
    names.push_back(fmt::format("{} more", wait.operations.size() - kNames));
  return fmt::format("{}", fmt::join(names, ", "));
}

bool meet(const Ranks& a, const Ranks& b) {
  return std::find_first_of(a.begin(), a.end(), b.begin(), b.end()) != a.end();
}

/// The innermost frames of a Python stack that are the program's own.
std::vector<std::string> frames_of(std::string_view stack) {
  std::vector<std::string> frames;
  while (!stack.empty()) {
    const size_t end = std::min(stack.find('\n'), stack.size());
    const std::string line(stack.substr(0, end));
    stack.remove_prefix(std::min(stack.size(), end + 1));
    if (line.starts_with("  File ") || frames.empty())
      frames.push_back(line);
    else if (!line.empty())
      frames.back() += "\n" + line;
  }
  while (!frames.empty() && frames.back().find("/hora/") != std::string::npos) frames.pop_back();
  if (frames.size() > kFrames) frames.erase(frames.begin(), frames.end() - kFrames);
  return frames;
}

class Explanation {
 public:
  explicit Explanation(const std::vector<FlightRecord>& all) : records_(all) {}

  std::string text() {
    const FlightRecord& first = records_.all()[0];
    text_ = fmt::format("Records of {} of {} ranks{}.\n", records_.all().size(), first.size,
                        first.job.empty() ? "" : fmt::format(", job {}", first.job));
    waits_ = records_.waits();
    tell_exceptions();
    tell_absent();
    tell_errors();
    tell_circles();
    for (const Wait& wait : waits_)
      if (!told_.contains(&wait)) tell_wait(wait);
    tell_transfers();
    tell_ends();
    if (findings_ == 0)
      text_ += "Nothing is wrong in these records: no operation failed, and no rank waits.\n";
    return std::move(text_);
  }

  /// After text(): some ranks wait for others that neither died nor raised an exception.
  bool finds_unknown_cause() const {
    return std::any_of(waits_.begin(), waits_.end(), [&](const Wait& wait) {
      return std::any_of(wait.late.begin(), wait.late.end(), [&](int rank) {
        const Absence absence = records_.absence(rank);
        return absence != Absence::kNoRecord && absence != Absence::kException;
      });
    });
  }

 private:
  template <class... Args>
  void finding(fmt::format_string<Args...> format, Args&&... args) {
    text_ += fmt::format("\n{}. {}\n", ++findings_,
                         upper_first(fmt::format(format, std::forward<Args>(args)...)));
  }
  template <class... Args>
  void fact(fmt::format_string<Args...> format, Args&&... args) {
    text_ += fmt::format("   - {}\n", fmt::format(format, std::forward<Args>(args)...));
  }
  void advise(std::string_view what) { text_ += fmt::format("   What to do: {}.\n", what); }

  void tell_exceptions() {
    std::map<std::string, Ranks> notes;
    for (const FlightRecord& record : records_.all())
      if (!record.note.empty()) notes[record.note].push_back(record.rank);
    for (const auto& [note, ranks] : notes) {
      finding("{} ended with an exception: {}", ranks_text(ranks), note);
      if (static_cast<int>(ranks.size()) < records_.size())
        advise("correct this error first; that others wait is its consequence");
    }
  }

  void tell_absent() {
    const Ranks absent = records_.absent();
    if (absent.empty()) return;
    finding("{} left no record: killed, or ended without hora.shutdown()", ranks_text(absent));
    advise(
        "look for its last lines of output; a process that the system kills for want of memory "
        "(`dmesg`) prints none");
  }

  void tell_errors() {
    std::vector<std::pair<std::string, Ranks>> errors;  // in order of occurrence
    for (const FlightRecord& record : records_.all()) {
      for (const FlightOperation& operation : record.operations) {
        if (operation.state != "failed" || waits_for_others(operation) ||
            operation.code == "shut down" || operation.code == "peer lost")
          continue;
        const std::string text = fmt::format("{}: {}", operation.code, operation.error);
        const auto same = [&](const auto& each) { return each.first == text; };
        auto found = std::find_if(errors.begin(), errors.end(), same);
        if (found == errors.end()) found = errors.insert(errors.end(), {text, {}});
        if (found->second.empty() || found->second.back() != record.rank)
          found->second.push_back(record.rank);
      }
    }
    for (size_t i = 0; i < std::min(errors.size(), kErrors); ++i) {
      finding("{} (on {})", errors[i].first, ranks_text(errors[i].second));
      if (errors[i].first.starts_with("mismatch")) advise(advice_on_mismatch(errors[i].first));
    }
    if (errors.size() > kErrors) finding("{} more errors like these", errors.size() - kErrors);
  }

  // Two ranks that wait for each other call things in different orders, or one calls what the
  // other does not.
  void tell_circles() {
    for (const Wait& a : waits_) {
      for (const Wait& b : waits_) {
        if (&b <= &a || !meet(a.waiting, b.late) || !meet(b.waiting, a.late)) continue;
        finding("{} and {} wait for each other: {} for {}; {} for {}", ranks_text(a.waiting),
                ranks_text(b.waiting), ranks_text(a.waiting), describe(a), ranks_text(b.waiting),
                describe(b));
        for (const Wait* wait : {&a, &b}) {
          told_.insert(wait);
          fact("{} did not submit '{}'{}", ranks_text(wait->late), wait->operations[0]->name,
               rounds_text(*wait));
          for (const int rank : wait->late) tell_stack(rank);
        }
        advise(advice_on_circle(records_, a, b));
      }
    }
  }

  /// "; rank 1 submitted it 3 times, rank 0 4 times", and what there is to say otherwise.
  std::string rounds_text(const Wait& wait) const {
    const FlightOperation& missed = *wait.operations[0];
    std::string text;
    for (const int rank : wait.late) {
      const FlightOperation* const before = records_.last(rank, missed.set, missed.name);
      if (before)
        text += fmt::format("; rank {} submitted it {}, {} {}", rank, times(before->round),
                            ranks_text(wait.waiting), times(missed.round));
      else if (records_.of(rank))
        text += fmt::format("; rank {} never submitted this name", rank);
    }
    return text;
  }

  void tell_wait(const Wait& wait) {
    finding("{} did not submit {}; {} waited {:.1f} s for it", ranks_text(wait.late),
            describe(wait), ranks_text(wait.waiting), static_cast<double>(wait.since) * 1e-9);
    for (const int rank : wait.late) tell_late(rank, wait);
    const std::string advice = advice_on_wait(records_, wait);
    if (!advice.empty()) advise(advice);
  }

  /// What a rank that is waited for did and does.
  void tell_late(int rank, const Wait& wait) {
    const FlightOperation& missed = *wait.operations[0];
    const FlightRecord* const record = records_.of(rank);
    if (!record) return fact("rank {} left no record", rank);
    const FlightOperation* const before = records_.last(rank, missed.set, missed.name);
    std::string text =
        before ? fmt::format("rank {} submitted it {}, {} {}", rank, times(before->round),
                             ranks_text(wait.waiting), times(missed.round))
               : fmt::format("rank {} never submitted this name", rank);
    if (record->operations.empty()) {
      text += ", and nothing else";
    } else {
      const FlightOperation& last = record->operations.back();
      text += fmt::format("; its last was {}, {}", describe(last),
                          waits_for_others(last) ? "for which it waits" : last.state);
    }
    switch (records_.absence(rank)) {
      case Absence::kException:
        text += "; it ended with an exception";
        break;
      case Absence::kEnded:
        text += "; its program has ended or called hora.shutdown()";
        break;
      case Absence::kBusy:
        text += "; it is busy elsewhere";
        break;
      default:
        break;
    }
    fact("{}", text);
    tell_stack(rank);
  }

  void tell_stack(int rank) {
    const FlightRecord* const record = records_.of(rank);
    if (!record || record->where.empty() || !shown_.insert(rank).second) return;
    fact("rank {} was at:", rank);
    for (const std::string& frame : frames_of(record->where)) text_ += fmt::format("{}\n", frame);
  }

  /// All ranks submitted it, and it has not ended.
  void tell_transfers() {
    for (const FlightRecord& record : records_.all()) {
      std::vector<const FlightOperation*> under_way;
      for (const FlightOperation& operation : record.operations)
        if (operation.open() && operation.agreed > 0) under_way.push_back(&operation);
      if (under_way.empty()) continue;
      finding("on rank {} {} and {} more were under way ({})", record.rank, describe(*under_way[0]),
              under_way.size() - 1, under_way[0]->state);
    }
  }

  /// Why epochs ended, each reason with those who give it.
  void tell_ends() {
    std::map<std::string, Ranks> reasons;
    for (const FlightRecord& record : records_.all())
      if (record.reason != "shutdown" && record.health == record.reason && !record.health.empty())
        reasons[record.health].push_back(record.rank);
    for (const auto& [reason, ranks] : reasons)
      finding("the job ended: {} (told by {})", reason, ranks_text(ranks));
  }

  const Records records_;
  std::vector<Wait> waits_;
  std::set<const Wait*> told_;
  std::set<int> shown_;  // whose stacks
  std::string text_;
  int findings_ = 0;
};

}  // namespace

std::string explain(const std::vector<FlightRecord>& records) {
  return Explanation(records).text();
}

std::string explain_failure(const std::string& directory) {
  const auto records = read_flight_records(directory);
  if (!records.ok()) return {};
  Explanation explanation(records.value());
  std::string text = explanation.text();
  return explanation.finds_unknown_cause() ? text : std::string();
}

}  // namespace hora
