#include "launcher/remote_host.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include <fmt/format.h>
#include <sys/wait.h>

#include "launcher/program.h"
#include "launcher/spawn.h"

namespace hora {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kAliveTime{2000};
constexpr milliseconds kSilence{20'000};  // the agent says something each kAliveTime
constexpr int kCommandNotFound = 127, kSshFailed = 255;

/// The other machine's login shell may be any: only this line is for it.
std::string remote_command(const std::string& program) {
  const std::string path = shell_quoted(program);
  const std::string script =
      fmt::format("if test -x {}; then exec {} --agent; else exec horarun --agent; fi", path, path);
  return "exec /bin/sh -c " + shell_quoted(script);
}

}  // namespace

RemoteHost::RemoteHost(Route route, const Clock& clock)
    : route_(std::move(route)),
      clock_(clock),
      alive_(clock, kAliveTime),
      silence_(clock, std::chrono::hours(1)) {}

Result<std::unique_ptr<RemoteHost>> RemoteHost::start(const Route& route, const Clock& clock) {
  auto host = std::make_unique<RemoteHost>(route, clock);
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return Status(Code::kUnavailable, ::strerrordesc_np(errno));
  const Descriptor their_end(ends[0]);
  host->out_.reset(ends[1]);
  ::fcntl(ends[1], F_SETFL, O_NONBLOCK);
  // Quoted as arguments, for the shell that cuts --rsh into words.
  Result<Spawned> process = spawn("/bin/sh",
                                  {"sh", "-c", "exec " + route.shell + " \"$@\"", "horarun",
                                   route.name, remote_command(route.program)},
                                  route.environment, their_end);
  HORA_TRY(process.status());
  host->pid_ = process.value().pid;
  host->in_ = std::move(process.value().out);
  host->remarks_ = std::move(process.value().err);
  return host;
}

void RemoteHost::send(const agent_wire::Message& message) {
  queue_ += agent_wire::encode(message);
}

void RemoteHost::add_to(std::vector<pollfd>& entries, bool reads) const {
  if (in_.valid() && reads) entries.push_back({in_.get(), POLLIN, 0});
  if (remarks_.valid()) entries.push_back({remarks_.get(), POLLIN, 0});
  if (out_.valid() && !queue_.empty()) entries.push_back({out_.get(), POLLOUT, 0});
}

void RemoteHost::attend(bool reads, std::vector<agent_wire::Message>& messages) {
  if (alive_.passed() && greeted_) {
    if (queue_.empty()) send(agent_wire::Alive{});
    alive_ = Deadline(clock_, kAliveTime);
  }
  flush();
  if (reads) read();
  if (!reads) silence_ = Deadline(clock_, kSilence);  // we would not hear it
  parse(messages);
  read_remarks();
  if (greeted_ && open() && silence_.passed())
    give_up(fmt::format("nothing was heard for {} s",
                        std::chrono::duration_cast<std::chrono::seconds>(kSilence).count()));
}

void RemoteHost::flush() {
  while (out_.valid() && !queue_.empty()) {
    const ssize_t written = ::write(out_.get(), queue_.data(), queue_.size());
    if (written > 0)
      queue_.erase(0, static_cast<size_t>(written));
    else if (written < 0 && errno == EAGAIN)
      return;
    else if (written < 0 && errno != EINTR)
      out_.reset();  // why is told by how the shell ends
  }
}

void RemoteHost::read() {
  std::array<char, 65536> buffer;
  // Some at a time, so that others have their turn.
  for (int i = 0; i < 16 && in_.valid(); ++i) {
    const ssize_t count = ::read(in_.get(), buffer.data(), buffer.size());
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (count <= 0) {
      in_.reset();
      return;
    }
    silence_ = Deadline(clock_, kSilence);
    inbox_.feed({buffer.data(), static_cast<size_t>(count)});
  }
}

void RemoteHost::parse(std::vector<agent_wire::Message>& messages) {
  while (!given_up()) {
    auto message = inbox_.next();
    if (!message.ok()) give_up(message.status().message());
    if (!message.ok() || !message.value()) return;
    greeted_ = true;
    messages.push_back(std::move(*message.value()));
  }
}

void RemoteHost::read_remarks() {
  std::array<char, 4096> buffer;
  std::vector<Line> lines;
  while (remarks_.valid()) {
    const ssize_t count = ::read(remarks_.get(), buffer.data(), buffer.size());
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) break;
    if (count <= 0) {
      splitter_.finish(lines);
      remarks_.reset();
      break;
    }
    splitter_.feed({buffer.data(), static_cast<size_t>(count)}, lines);
  }
  for (Line& line : lines) {
    if (line.text.empty()) continue;
    last_remark_ = line.text;
    new_remarks_.push_back(std::move(line.text));
  }
}

std::vector<std::string> RemoteHost::take_remarks() {
  return std::exchange(new_remarks_, {});
}

void RemoteHost::give_up(std::string reason) {
  given_up_ = std::move(reason);
  if (!wait_status_) ::kill(-pid_, SIGKILL);
  in_.reset();
  out_.reset();
}

std::string RemoteHost::obituary() const {
  if (given_up()) return given_up_;
  if (!wait_status_) return "the connection has ended";
  const std::string remark = last_remark_.empty() ? "" : ": " + last_remark_;
  const int code = WIFEXITED(*wait_status_) ? WEXITSTATUS(*wait_status_) : -1;
  if (!greeted_ && code == kCommandNotFound)
    return fmt::format("there is no horarun, neither {} nor in PATH{}", route_.program, remark);
  if (!greeted_ && code == kSshFailed)
    return fmt::format("`{} {}` failed{}", route_.shell, route_.name, remark);
  return fmt::format("`{} {}` {}{}", route_.shell, route_.name, describe_end(*wait_status_),
                     remark);
}

}  // namespace hora
