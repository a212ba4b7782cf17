#include "benchmarks/bare.h"

#include <poll.h>
#include <sched.h>
#include <unistd.h>

#include <numeric>

#include <sys/eventfd.h>

#include "ops/local/local.h"
#include "ops/plugin.h"
#include "ops/shm/neighborhood.h"
#include "ops/shm/shm.h"
#include "ops/tcp/endpoint.h"
#include "ops/tcp/tcp.h"
#include "runtime/clock.h"

namespace hora::benchmarks {
namespace {

constexpr double kYielding = 50e-6;
constexpr int kLookAgain = 10;  // ms; no wait relies on it

std::vector<Rank> everybody(int size) {
  std::vector<Rank> ranks(static_cast<size_t>(size));
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

}  // namespace

std::shared_ptr<void> Bare::make_hub(int size) {
  return local::make_hub(size);
}

Bare::Bare(Rankfile& self, const std::string& backend, std::shared_ptr<void> hub)
    : eventfd_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)), bell_(&armed_, eventfd_) {
  if (backend == "shm")
    open_shm(self);
  else if (backend == "tcp")
    open_tcp(self);
  else if (backend == "gloo")
    open_gloo(self);
  else
    backend_ = local::open(std::static_pointer_cast<local::Hub>(hub), self.rank());
  world_ = need(backend_->communicator(0, everybody(self.size()), lane_.index()));
}

Bare::~Bare() {
  world_.reset();
  backend_.reset();
  ::close(eventfd_);
}

void Bare::open_shm(Rankfile& self) {
  shm::Neighborhood::Options options;
  options.job = "benchmark";
  options.rank = self.rank();
  options.ranks = everybody(self.size());
  auto neighborhood = need(shm::Neighborhood::meet(
      options,
      [&](const std::string& key, const std::string& value) {
        return self.store().set(key, value);
      },
      [&](const std::string& key, std::chrono::milliseconds timeout) {
        return self.store().get(key, timeout);
      }));
  bell_ = neighborhood->bell(self.rank());
  backend_ = shm::open(std::move(neighborhood));
}

// On one host and for as long as the benchmark: a secret of zeros keeps nobody out.
void Bare::open_tcp(Rankfile& self) {
  const Config config = self.config();
  tcp::Endpoint::Options options;
  options.self.rank = self.rank();
  options.bind = "127.0.0.1";
  options.tls = config.tls != 0;
  options.buffer_bytes = config.tcp_buffer_bytes;
  options.ring = [this] { bell_.ring(); };
  const auto endpoint = need(tcp::Endpoint::open(options));
  const auto addresses = self.gather(endpoint->addresses());
  for (Rank rank = 0; rank < self.size(); ++rank)
    if (rank != self.rank()) endpoint->know(rank, addresses[static_cast<size_t>(rank)]);
  tcp::Options ours;
  ours.streams = config.tcp_streams;
  ours.hosts.assign(static_cast<size_t>(self.size()), 0);
  ours.now = [] { return SystemClock().now(); };
  backend_ = tcp::open(endpoint, ours);
}

void Bare::open_gloo(Rankfile& self) {
  PluginContext context;
  context.rank = self.rank();
  context.size = self.size();
  context.job = "benchmark";
  Store& store = self.store();
  context.publish = [&store](std::string_view key, std::string_view value) {
    return store.set(key, value);
  };
  context.lookup = [&store](std::string_view key, std::chrono::milliseconds timeout) {
    return store.get(key, timeout);
  };
  context.ring = [this] { bell_.ring(); };
  backend_ = need(load_backend("gloo", context));
}

Status Bare::run(Ticket ticket) {
  lane_.start(std::move(ticket));
  double patience = 0;
  while (!lane_.idle()) {
    if (lane_.progress()) {
      patience = 0;
      continue;
    }
    if (patience == 0) patience = seconds_now() + kYielding;
    if (seconds_now() < patience) {
      ::sched_yield();
      continue;
    }
    bell_.arm();
    if (!lane_.progress()) {
      pollfd news[] = {{bell_.eventfd(), POLLIN, 0}, {backend_->watched(), POLLIN, 0}};
      ::poll(news, 2, kLookAgain);
      bell_.drain();
      backend_->look();
    }
    bell_.disarm();
  }
  return lane_.outcome();
}

}  // namespace hora::benchmarks
