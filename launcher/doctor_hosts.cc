#include "launcher/doctor_hosts.h"

#include <poll.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <optional>
#include <utility>
#include <variant>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <sys/wait.h>

#include "hora/config.h"
#include "launcher/command_line.h"
#include "launcher/cores.h"
#include "launcher/doctor.h"
#include "launcher/guard.h"
#include "launcher/host_options.h"
#include "launcher/host_probe.h"

namespace hora {
namespace {

using namespace agent_wire;
using std::chrono::milliseconds;

constexpr milliseconds kAnswerTime{5000}, kReachTime{15'000};
constexpr int64_t kMuchSkew = 1'000'000'000;
constexpr int kPollMilliseconds = 100;

/// The first one is this.
struct Machine {
  std::string name;
  std::unique_ptr<RemoteHost> connection;
  std::string failure;
  std::optional<Hello> hello;
  std::optional<Inspected> inspected;
  std::optional<int64_t> skew;
  int64_t asked = 0, asked_unix = 0, uncertainty = 0, answered_after = 0;
  std::vector<std::optional<Reached>> reached;

  bool well() const { return failure.empty(); }
};

class Inspection {
 public:
  Inspection(const std::vector<RemoteHost::Route>& routes, const Clock& clock) : clock_(clock) {
    machines_.emplace_back().name = "this machine";
    for (const RemoteHost::Route& route : routes) {
      Machine& machine = machines_.emplace_back();
      machine.name = route.name;
      auto connection = RemoteHost::start(route, clock);
      if (connection.ok())
        machine.connection = std::move(connection).value();
      else
        machine.failure = connection.status().message();
    }
    for (Machine& machine : machines_) machine.reached.resize(machines_.size());
  }

  Status run(milliseconds timeout) {
    const auto secret = random_secret();
    HORA_TRY(secret.status());
    const StoreKey key{"doctor", secret.value()};
    auto probe = HostProbe::open(key);
    HORA_TRY(probe.status());
    machines_[0].inspected =
        Inspected{probe.value()->address(), static_cast<uint32_t>(allowed_cores()), lacks_here()};
    const int64_t begin = clock_.now();
    wait(timeout, "no answer", [&](Machine& machine) {
      if (machine.hello && machine.answered_after == 0)
        machine.answered_after = clock_.now() - begin;
      return machine.hello.has_value();
    });
    compare_versions();
    for (Machine& machine : others()) machine.connection->send(Inspect{key.job, key.secret});
    wait(kAnswerTime, "it does not open a port",
         [](const Machine& machine) { return machine.inspected.has_value(); });
    for (Machine& machine : others()) {
      machine.asked = clock_.now();
      machine.asked_unix = unix_time();
      machine.connection->send(AskTime{});
    }
    wait(kAnswerTime, "it does not answer",
         [](const Machine& machine) { return machine.skew.has_value(); });
    for (size_t to = 0; to < machines_.size(); ++to) reach(to, *probe.value());
    return {};
  }

  HostsPage page() const {
    std::string text;
    bool ok = true;
    for (const Machine& machine : machines_) {
      ok = ok && machine.well();
      text += fmt::format("{:<14} {}\n", machine.name, about(machine));
      for (const std::string& lack : lacks_of(machine)) {
        ok = false;
        text += fmt::format("{:<14} FAILED: {}\n", "", lack);
      }
    }
    text += "\nfrom, to: round trip, one stream\n";
    bool unreached = false;
    for (const Machine& from : machines_) {
      for (size_t to = 0; to < machines_.size(); ++to) {
        if (&from == &machines_[to] || !from.well() || !machines_[to].well()) continue;
        const bool fine = from.reached[to] && from.reached[to]->failure.empty();
        unreached = unreached || !fine;
        text += fmt::format("{}, {}: {}\n", from.name, machines_[to].name, link(from.reached[to]));
      }
    }
    text += advice(unreached);
    return {ok && !unreached, text, slowest()};
  }

 private:
  std::vector<std::reference_wrapper<Machine>> others() {
    std::vector<std::reference_wrapper<Machine>> result;
    for (Machine& machine : machines_)
      if (machine.connection && machine.well()) result.emplace_back(machine);
    return result;
  }

  /// Until all others that are well are done; who is not in time is not well.
  void wait(milliseconds timeout, const char* why, const std::function<bool(Machine&)>& done) {
    const Deadline deadline(clock_, timeout);
    for (;;) {
      bool all = true;
      for (Machine& machine : others()) all = done(machine) && all;
      if (all) return;
      if (deadline.passed()) break;
      step();
    }
    for (Machine& machine : others())
      if (!done(machine))
        machine.failure = fmt::format("{} within {} s", why, timeout.count() / 1000.0);
  }

  void step() {
    std::vector<pollfd> entries;
    for (Machine& machine : others()) machine.connection->add_to(entries, true);
    ::poll(entries.data(), entries.size(), kPollMilliseconds);
    for (Machine& machine : others()) {
      int wait_status = 0;
      if (::waitpid(machine.connection->pid(), &wait_status, WNOHANG) > 0)
        machine.connection->reaped(wait_status);
      std::vector<Message> messages;
      machine.connection->attend(true, messages);
      for (const Message& message : messages) hear(machine, message);
      if (machine.connection->gone() && machine.well())
        machine.failure = machine.connection->obituary();
    }
  }

  void hear(Machine& machine, const Message& message) {
    if (const auto* const hello = std::get_if<Hello>(&message)) {
      machine.hello = *hello;
    } else if (const auto* const refused = std::get_if<Refused>(&message)) {
      machine.failure = refused->reason;
    } else if (const auto* const inspected = std::get_if<Inspected>(&message)) {
      machine.inspected = *inspected;
    } else if (const auto* const time = std::get_if<Time>(&message)) {
      // Its clock was read between our question and its answer.
      const int64_t round_trip = clock_.now() - machine.asked;
      machine.uncertainty = round_trip / 2;
      machine.skew =
          static_cast<int64_t>(time->unix_nanoseconds) - (machine.asked_unix + machine.uncertainty);
    } else if (const auto* const reached = std::get_if<Reached>(&message)) {
      if (reached->to < machine.reached.size()) machine.reached[reached->to] = *reached;
    }
  }

  void compare_versions() {
    for (Machine& machine : others())
      if (machine.hello->version != HORA_VERSION || machine.hello->protocol != kProtocol)
        machine.failure = fmt::format("it has Hora {}, and this machine {}: install the same",
                                      machine.hello->version, HORA_VERSION);
  }

  /// All reach one after the other the same host, so that links are not shared much.
  void reach(size_t to, const HostProbe& probe) {
    Machine& target = machines_[to];
    if (!target.well() || !target.inspected) return;
    const Reach request{static_cast<uint32_t>(to), target.inspected->store};
    if (to != 0) machines_[0].reached[to] = probe.reach(request, clock_);
    for (Machine& machine : others()) {
      if (&machine == &target) continue;
      machine.connection->send(request);
      const Deadline deadline(clock_, kReachTime);
      while (!machine.reached[to] && machine.well() && !deadline.passed()) step();
    }
  }

  static std::vector<std::string> lacks_of(const Machine& machine) {
    return machine.well() && machine.inspected ? machine.inspected->lacks
                                               : std::vector<std::string>();
  }

  /// Both ways over one stream, by a store: what a job would get at least.
  std::optional<LinkCost> slowest() const {
    std::optional<LinkCost> link;
    for (const Machine& machine : machines_)
      for (const auto& reached : machine.reached) {
        if (!reached || !reached->failure.empty() || reached->bytes_per_second == 0) continue;
        const double latency = static_cast<double>(reached->round_trip_ns) / 2e9;
        const auto rate = static_cast<double>(reached->bytes_per_second);
        if (!link) link = {latency, kUsualAcross.overhead, rate};
        link->latency = std::max(link->latency, latency);
        link->bandwidth = std::min(link->bandwidth, rate);
      }
    return link;
  }

  std::string about(const Machine& machine) const {
    if (!machine.well()) return "FAILED: " + machine.failure;
    std::string text = fmt::format("hora {}, {} cores", HORA_VERSION,
                                   machine.inspected ? machine.inspected->cores : 0);
    if (machine.skew)
      text += fmt::format(", clock {:+.1f} ms (within {:.1f}), answered in {:.1f} s",
                          static_cast<double>(*machine.skew) / 1e6,
                          static_cast<double>(machine.uncertainty) / 1e6,
                          static_cast<double>(machine.answered_after) / 1e9);
    return text;
  }

  static std::string link(const std::optional<Reached>& reached) {
    if (!reached) return "FAILED: no answer";
    if (!reached->failure.empty()) return "FAILED: " + reached->failure;
    return fmt::format("{:.3f} ms, {:.2f} Gbit/s",
                       static_cast<double>(reached->round_trip_ns) / 1e6,
                       static_cast<double>(reached->bytes_per_second) * 8 / 1e9);
  }

  std::string advice(bool unreached) const {
    std::string text;
    if (unreached)
      text +=
          "\nLet these hosts connect to each other: any TCP port that the system hands out\n"
          "(/proc/sys/net/ipv4/ip_local_port_range), through firewalls too. HORA_ADDRESS restricts "
          "a\nrank to addresses that work.\n";
    for (const Machine& machine : machines_)
      if (machine.skew && std::abs(*machine.skew) - machine.uncertainty > kMuchSkew)
        text += fmt::format(
            "\nThe clock of {} is far off: start NTP there. Training does not mind, but "
            "certificates\nand logs do.\n",
            machine.name);
    return text;
  }

  const Clock& clock_;
  std::vector<Machine> machines_;
};

}  // namespace

HostsPage inspect_hosts(const std::vector<RemoteHost::Route>& routes, const Clock& clock,
                        milliseconds timeout) {
  Inspection inspection(routes, clock);
  if (const Status status = inspection.run(timeout); !status.ok())
    return {false, status.message() + "\n", {}};
  return inspection.page();
}

int visit_hosts(const RunOptions& options, milliseconds timeout,
                const std::function<int(const HostsPage&)>& use) {
  std::error_code ignored;
  const std::string program = std::filesystem::read_symlink("/proc/self/exe", ignored).string();
  std::vector<RemoteHost::Route> routes;
  for (const Host& host : options.hosts)
    if (!is_this_machine(host.name))
      routes.push_back({host.name, options.remote_shell, program, environment()});
  const SystemClock clock;
  return run_guarded(clock, [&](const std::string&) {
    const int result = use(inspect_hosts(routes, clock, timeout));
    std::fflush(stdout);
    kill_descendants(clock);
    return result;
  });
}

int doctor_main(const std::vector<std::string>& arguments) {
  CLI::App app("Says what this machine can do, and why not; with --hosts what others can.",
               "hora doctor");
  RunOptions options;
  HostOptions hosts;
  hosts.add_to(app, options);
  double seconds = 30;
  app.add_option("--start-timeout", seconds, "For each host to answer (30)")
      ->type_name("SECONDS")
      ->check(CLI::Range(0.1, 3600.0));
  if (const auto code = parse_command_line(app, arguments)) return *code;
  if (const std::string wrong = hosts.check(app, options); !wrong.empty()) {
    fmt::print(stderr, "hora doctor: {}\n", wrong);
    return 2;
  }
  fmt::print("{}", doctor_page());
  if (options.hosts.empty()) return 0;
  return visit_hosts(options, milliseconds(static_cast<int64_t>(seconds * 1000)),
                     [](const HostsPage& page) {
                       fmt::print("\n{}", page.text);
                       return page.ok ? 0 : 1;
                     });
}

}  // namespace hora
