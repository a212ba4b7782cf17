// Plays hosts and the switch between them: link_switch HOSTS BITS_PER_S DELAY_US QUEUE_BYTES LOSS.
//
// Prints "ready NET:UTS ..." with the descriptors of each host's namespaces, for
// `nsenter --net=/proc/PID/fd/NET`. Then it obeys lines from stdin until that ends, and answers
// each with a line:
//
//   block A B    what host A sends to host B vanishes      ok
//   pass A B     it does not any more                      ok
//   down A       host A's interface goes down              ok
//   up A         it is up again                            ok
//   loss P       the probability of a loss                 ok
//   counts       bytes sent and received, packets dropped  S:R:D ...

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <sys/prctl.h>

#include "runtime/clock.h"
#include "tests/links/hosts.h"
#include "tests/links/shaper.h"

namespace hora::links {
namespace {

constexpr int kAtOnce = 16;  // packets of one host before the next one's turn
constexpr size_t kLargestPacket = 70000;

class Switch {
 public:
  Switch(std::vector<Host> hosts, const Shape& shape)
      : hosts_(std::move(hosts)), shaper_(hosts_.size(), shape) {}

  Status run() {
    HORA_TRY(apply_loss());
    std::string ready = "ready";
    for (const Host& host : hosts_)
      ready += fmt::format(" {}:{}", host.network.get(), host.name.get());
    answer(ready);
    while (!over_) step();
    return {};
  }

 private:
  void step() {
    std::vector<pollfd> entries = {{STDIN_FILENO, POLLIN, 0}};
    for (const Host& host : hosts_) entries.push_back({host.tap.get(), POLLIN, 0});
    timespec wait{};
    const std::optional<int64_t> next = shaper_.next();
    if (next) {
      const int64_t left = std::max<int64_t>(0, *next - clock_.now());
      wait = {left / 1'000'000'000, left % 1'000'000'000};
    }
    const int happened = ::ppoll(entries.data(), entries.size(), next ? &wait : nullptr, nullptr);
    for (size_t i = 0; happened > 0 && i < hosts_.size(); ++i)
      if (entries[i + 1].revents) collect(i);
    for (size_t i = 0; i < hosts_.size(); ++i) deliver(i);
    if (happened > 0 && entries[0].revents) obey();
  }

  void collect(size_t host) {
    for (int i = 0; i < kAtOnce; ++i) {
      const ssize_t count = ::read(hosts_[host].tap.get(), buffer_.data(), buffer_.size());
      if (count <= 0) return;
      shaper_.offer(clock_.now(), host, buffer_.substr(0, static_cast<size_t>(count)));
    }
  }

  void deliver(size_t host) {
    while (const std::optional<Packet> packet = shaper_.take(clock_.now(), host)) {
      // What the host has no room for is lost, as on a real link.
      [[maybe_unused]] const ssize_t written =
          ::write(hosts_[host].tap.get(), packet->bytes.data(), packet->bytes.size());
    }
  }

  void obey() {
    char bytes[4096];
    const ssize_t count = ::read(STDIN_FILENO, bytes, sizeof(bytes));
    over_ = count <= 0;
    commands_.append(bytes, static_cast<size_t>(std::max<ssize_t>(0, count)));
    for (size_t end = 0; (end = commands_.find('\n')) != commands_.npos;
         commands_.erase(0, end + 1))
      obey(commands_.substr(0, end));
  }

  void obey(const std::string& line) {
    std::istringstream words(line);
    std::string what;
    words >> what;
    size_t from = hosts_.size(), to = hosts_.size();
    double loss = 0;
    if ((what == "block" || what == "pass") && words >> from >> to && from < hosts_.size() &&
        to < hosts_.size()) {
      shaper_.block(from, to, what == "block");
      answer("ok");
    } else if ((what == "down" || what == "up") && words >> from && from < hosts_.size()) {
      answer(set_up(hosts_[from], what == "up").ok() ? "ok" : "error: the kernel refused");
    } else if (what == "loss" && words >> loss) {
      shaper_.set_loss(loss);
      answer(apply_loss().ok() ? "ok" : "error: the kernel refused");
    } else if (what == "counts") {
      answer(counts());
    } else {
      answer("error: " + line);
    }
  }

  std::string counts() const {
    std::string text;
    for (size_t i = 0; i < hosts_.size(); ++i) {
      const Counts& counts = shaper_.counts(i);
      text += fmt::format("{}{}:{}:{}", i ? " " : "", counts.sent, counts.received, counts.dropped);
    }
    return text;
  }

  /// A link that loses packets loses each by itself.
  Status apply_loss() {
    for (const Host& host : hosts_) HORA_TRY(set_large_segments(host, shaper_.shape().loss == 0));
    return {};
  }

  static void answer(const std::string& line) {
    fmt::print("{}\n", line);
    std::fflush(stdout);
  }

  const SystemClock clock_;
  std::vector<Host> hosts_;
  Shaper shaper_;
  std::string buffer_ = std::string(kLargestPacket, '\0');
  std::string commands_;
  bool over_ = false;
};

std::optional<double> number_in(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) return {};
  return value;
}

int link_switch_main(const std::vector<std::string>& arguments) {
  std::vector<double> numbers;
  for (const std::string& argument : arguments)
    if (const auto number = number_in(argument)) numbers.push_back(*number);
  if (numbers.size() != 5 || arguments.size() != 5 || numbers[0] < 1 || numbers[0] > 200) {
    fmt::print(stderr, "usage: link_switch HOSTS BITS_PER_S DELAY_US QUEUE_BYTES LOSS\n");
    return 2;
  }
  ::prctl(PR_SET_TIMERSLACK, 1000UL);  // 1 us instead of 50
  const Shape shape{numbers[1], static_cast<int64_t>(numbers[2] * 1000),
                    static_cast<uint64_t>(numbers[3]), numbers[4]};
  auto hosts = make_hosts(static_cast<size_t>(numbers[0]));
  Status status = hosts.status();
  if (status.ok()) status = Switch(std::move(hosts).value(), shape).run();
  if (!status.ok()) fmt::print(stderr, "link_switch: {}\n", status.message());
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace hora::links

int main(int argc, char** argv) {
  return hora::links::link_switch_main({argv + (argc > 0 ? 1 : 0), argv + argc});
}
