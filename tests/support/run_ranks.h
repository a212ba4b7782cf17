#pragma once

#include <chrono>
#include <functional>
#include <span>
#include <string>

#include "hora/request.h"
#include "ops/lane.h"

namespace hora::support {

/// One rank's part of a test. Gives what went wrong, or nothing. It must not use GoogleTest's
/// assertions: in a process of its own nobody would hear them.
using RankBody = std::function<std::string(Rank rank)>;

/// Runs the body as `size` threads, or as `size` forked processes, and gives what went wrong where.
/// A process that is not done after `deadline` is killed and named.
std::string run_threads(int size, const RankBody& body);
std::string run_processes(int size, const RankBody& body,
                          std::chrono::seconds deadline = std::chrono::seconds(120));

/// Makes lanes run until all are idle. After `deadline` it aborts them with kTimeout; if even that
/// does not end them, the process says so and dies, rather than hang.
void drive(std::span<Lane* const> lanes, std::chrono::seconds deadline = std::chrono::seconds(60));

/// Runs one operation to its end.
Status run(Lane& lane, Ticket ticket);

/// Returns, from a rank's body, where and why, unless `condition` holds.
#define HORA_WANT(condition, detail)                                                       \
  do {                                                                                     \
    if (!(condition)) {                                                                    \
      return std::string(__FILE__ ":") + std::to_string(__LINE__) + ": " #condition ": " + \
             (detail);                                                                     \
    }                                                                                      \
  } while (false)

/// The same for a Status that should be ok.
#define HORA_WANT_OK(expression)                    \
  do {                                              \
    const ::hora::Status wanted_ok = (expression);  \
    HORA_WANT(wanted_ok.ok(), wanted_ok.message()); \
  } while (false)

/// And for another body's report.
#define HORA_WANT_NOTHING(expression)                                   \
  do {                                                                  \
    if (std::string wrong = (expression); !wrong.empty()) return wrong; \
  } while (false)

}  // namespace hora::support
