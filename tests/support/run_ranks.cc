#include "tests/support/run_ranks.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include <sys/wait.h>

namespace hora::support {
namespace {

using Clock = std::chrono::steady_clock;

struct Child {
  pid_t pid = -1;
  int pipe = -1;
};

std::string report(Rank rank, const std::string& wrong) {
  return wrong.empty() ? "" : "rank " + std::to_string(rank) + ": " + wrong + "\n";
}

[[noreturn]] void be_child(int pipe, Rank rank, const RankBody& body) {
  const std::string wrong = body(rank);
  for (size_t at = 0; at < wrong.size();) {
    const ssize_t written = ::write(pipe, wrong.data() + at, wrong.size() - at);
    if (written <= 0) break;
    at += static_cast<size_t>(written);
  }
  // Not exit(): the parent's GoogleTest must not report from here.
  ::_exit(wrong.empty() ? 0 : 1);
}

Child start(Rank rank, const RankBody& body) {
  int ends[2];
  HORA_CHECK(::pipe(ends) == 0, "no pipe for a rank");
  std::fflush(nullptr);
  const pid_t pid = ::fork();
  HORA_CHECK(pid >= 0, "no process for a rank");
  if (pid == 0) {
    ::close(ends[0]);
    be_child(ends[1], rank, body);
  }
  ::close(ends[1]);
  return {pid, ends[0]};
}

// Reads until the child closes its end. False: the deadline came first.
bool read_until(int pipe, Clock::time_point deadline, std::string& text) {
  while (true) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
    pollfd ready{pipe, POLLIN, 0};
    if (::poll(&ready, 1, static_cast<int>(std::max<int64_t>(left.count(), 0))) <= 0) return false;
    char buffer[4096];
    const ssize_t got = ::read(pipe, buffer, sizeof(buffer));
    if (got <= 0) return true;
    text.append(buffer, static_cast<size_t>(got));
  }
}

std::string finish(const Child& child, Clock::time_point deadline) {
  std::string wrong;
  const bool ended = read_until(child.pipe, deadline, wrong);
  if (!ended) {
    ::kill(child.pid, SIGKILL);
    wrong += "not done by the deadline; killed";
  }
  ::close(child.pipe);
  int status = 0;
  ::waitpid(child.pid, &status, 0);
  if (ended && WIFSIGNALED(status)) wrong += "died of signal " + std::to_string(WTERMSIG(status));
  if (ended && WIFEXITED(status) && WEXITSTATUS(status) != 0 && wrong.empty()) {
    wrong = "exit code " + std::to_string(WEXITSTATUS(status));
  }
  return wrong;
}

}  // namespace

std::string run_threads(int size, const RankBody& body) {
  std::vector<std::string> wrong(static_cast<size_t>(size));
  std::vector<std::thread> threads;
  for (Rank rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] { wrong[static_cast<size_t>(rank)] = body(rank); });
  }
  for (std::thread& thread : threads) thread.join();
  std::string all;
  for (Rank rank = 0; rank < size; ++rank) all += report(rank, wrong[static_cast<size_t>(rank)]);
  return all;
}

std::string run_processes(int size, const RankBody& body, std::chrono::seconds deadline) {
  const auto end = Clock::now() + deadline;
  std::vector<Child> children;
  for (Rank rank = 0; rank < size; ++rank) children.push_back(start(rank, body));
  std::string all;
  for (Rank rank = 0; rank < size; ++rank) {
    all += report(rank, finish(children[static_cast<size_t>(rank)], end));
  }
  return all;
}

void drive(std::span<Lane* const> lanes, std::chrono::seconds deadline) {
  constexpr std::chrono::seconds kGrace(20);
  const auto end = Clock::now() + deadline;
  while (std::any_of(lanes.begin(), lanes.end(), [](const Lane* lane) { return !lane->idle(); })) {
    bool moved = false;
    for (Lane* lane : lanes) moved |= lane->progress();
    if (moved) continue;
    std::this_thread::yield();
    if (Clock::now() < end) continue;
    for (Lane* lane : lanes) {
      lane->abort({Code::kTimeout, "test: lane " + std::to_string(lane->index()) +
                                       " was not done after " + std::to_string(deadline.count()) +
                                       " s"});
    }
    HORA_CHECK(Clock::now() < end + kGrace, "a lane hangs even after its abort");
  }
}

Status run(Lane& lane, Ticket ticket) {
  lane.start(std::move(ticket));
  Lane* const lanes[] = {&lane};
  drive(lanes);
  return lane.outcome();
}

}  // namespace hora::support
