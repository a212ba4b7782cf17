#include "ops/shm/neighborhood.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include <sys/eventfd.h>
#include <sys/mman.h>

namespace hora::shm {
namespace {

Status check(const Neighborhood::Options& options) {
  const auto& ranks = options.ranks;
  const auto has = [&](Rank rank) {
    return std::find(ranks.begin(), ranks.end(), rank) != ranks.end();
  };
  const bool ascending =
      std::adjacent_find(ranks.begin(), ranks.end(), std::greater_equal<>()) == ranks.end();
  if (!ascending || !has(options.rank) || options.lanes < 1)
    return {Code::kInvalidArgument, "shm: ranks must ascend, with rank " +
                                        std::to_string(options.rank) +
                                        " among them, and at least one lane"};
  for (const Rank link : options.links)
    if (link == options.rank || !has(link) ||
        std::count(options.links.begin(), options.links.end(), link) != 1)
      return {Code::kInvalidArgument, "shm: a link to rank " + std::to_string(link) +
                                          ", which is no other rank of this host"};
  return {};
}

int position_of(const std::vector<Rank>& ranks, Rank rank) {
  const auto found = std::lower_bound(ranks.begin(), ranks.end(), rank);
  return found == ranks.end() || *found != rank ? -1 : static_cast<int>(found - ranks.begin());
}

Result<Belongings> make_belongings(const Neighborhood::Options& options) {
  const auto ranks = static_cast<int>(options.ranks.size());
  const auto links = static_cast<int>(options.links.size());
  const size_t bytes = Window::bytes_for(ranks, options.lanes, links);
  Belongings mine;
  Result<Descriptor> memory = make_memory("hora-window");
  if (!memory.ok()) return memory.status();
  mine.window_memory = std::move(memory).value();
  HORA_TRY(reserve(mine.window_memory, 0, bytes));
  Result<std::shared_ptr<Mapping>> window = Mapping::map(mine.window_memory.get(), bytes);
  if (!window.ok()) return window.status();
  mine.window = window.value();
  mine.eventfd = Descriptor(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!mine.eventfd.valid()) return failed(Code::kUnavailable, "make an eventfd", errno);
  const Window view(mine.window->data(), ranks, options.lanes);
  for (int i = 0; i < links; ++i) {
    const Rank to = options.links[static_cast<size_t>(i)];
    view.ring_of()[static_cast<size_t>(position_of(options.ranks, to))] =
        static_cast<uint32_t>(i) + 1;
  }
  return mine;
}

bool readable(int fd) {
  pollfd one{fd, POLLIN, 0};
  return ::poll(&one, 1, 0) == 1;
}

}  // namespace

Result<std::shared_ptr<Neighborhood>> Neighborhood::meet(const Options& options,
                                                         const Publish& publish,
                                                         const Lookup& lookup) {
  HORA_TRY(check(options));
  Result<Belongings> mine = make_belongings(options);
  if (!mine.ok()) return mine.status();
  Result<std::unique_ptr<Arena>> arena = Arena::create(options.arena_limit);
  if (!arena.ok()) return arena.status();
  mine.value().arena_memory = arena.value()->memory().get();
  mine.value().arena = arena.value()->mapping();
  const Invitation invitation{options.job,    options.epoch, options.rank,
                              options.ranks,  options.lanes, static_cast<int>(options.links.size()),
                              options.timeout};
  Result<std::vector<Peer>> peers = meet_all(invitation, mine.value(), publish, lookup);
  if (!peers.ok()) return peers.status();
  mine.value().window_memory.reset();
  return std::make_shared<Neighborhood>(options, std::move(mine).value(), std::move(arena).value(),
                                        std::move(peers).value());
}

Neighborhood::Neighborhood(const Options& options, Belongings mine, std::unique_ptr<Arena> arena,
                           std::vector<Peer> peers)
    : options_(options),
      self_(position_of(options.ranks, options.rank)),
      mine_(std::move(mine)),
      arena_(std::move(arena)),
      peers_(std::move(peers)) {
  const int ranks = static_cast<int>(peers_.size());
  for (int i = 0; i < ranks; ++i) {
    const auto& memory = i == self_ ? mine_.window : peers_[static_cast<size_t>(i)].window;
    windows_.emplace_back(memory->data(), ranks, options_.lanes);
  }
  make_links();
}

void Neighborhood::make_links() {
  for (const Rank rank : options_.links) {
    const int index = index_of(rank);
    Ring* out = windows_[static_cast<size_t>(self_)].ring_to(index);
    Ring* in = windows_[static_cast<size_t>(index)].ring_to(self_);
    HORA_CHECK(out && in, "rank " + std::to_string(rank) + " does not list rank " +
                              std::to_string(options_.rank) + " among its links");
    links_.push_back({rank, bell(rank), Outbox(out), Inbox(in)});
  }
}

int Neighborhood::index_of(Rank rank) const {
  return position_of(options_.ranks, rank);
}

Bell Neighborhood::bell(Rank rank) const {
  const auto index = static_cast<size_t>(index_of(rank));
  const bool mine = static_cast<int>(index) == self_;
  return {windows_[index].armed(), mine ? mine_.eventfd.get() : peers_[index].eventfd.get()};
}

std::byte* Neighborhood::arena_of(int index) const {
  return (index == self_ ? mine_.arena : peers_[static_cast<size_t>(index)].arena)->data();
}

size_t Neighborhood::arena_bytes_of(int index) const {
  return (index == self_ ? mine_.arena : peers_[static_cast<size_t>(index)].arena)->bytes();
}

Status Neighborhood::send(Rank to, std::string_view frame) {
  for (Link& link : links_) {
    if (link.rank != to) continue;
    HORA_TRY(link.out.send(frame));
    link.bell.ring();
    return {};
  }
  return {Code::kInvalidArgument, "shm: no control link to rank " + std::to_string(to)};
}

void Neighborhood::flush() {
  for (Link& link : links_)
    if (link.out.flush()) link.bell.ring();
}

bool Neighborhood::flushed() const {
  return std::all_of(links_.begin(), links_.end(),
                     [](const Link& link) { return link.out.empty(); });
}

Result<bool> Neighborhood::receive(const Visit& visit) {
  bool any = false;
  for (Link& link : links_) {
    const Result<bool> came =
        link.in.receive([&, from = link.rank](std::string_view frame) { visit(from, frame); });
    if (!came.ok())
      return Status(came.status().code(),
                    "shm: from rank " + std::to_string(link.rank) + ": " + came.status().message());
    if (!came.value()) continue;
    any = true;
    link.bell.ring();  // there is room again: its backlog may wait for that
  }
  return any;
}

std::vector<Neighborhood::Watch> Neighborhood::watches() const {
  std::vector<Watch> watches;
  for (const Peer& peer : peers_) {
    if (peer.process.valid()) watches.push_back({peer.process.get(), peer.rank});
    if (peer.socket.valid()) watches.push_back({peer.socket.get(), peer.rank});
  }
  return watches;
}

std::string Neighborhood::died(int fd) const {
  for (const Peer& peer : peers_) {
    if (fd != peer.process.get() && fd != peer.socket.get()) continue;
    // The socket may tell first: the process closes it on its way out.
    if (peer.process.valid() && readable(peer.process.get()))
      return obituary(peer.process, peer.pid);
    return "process " + std::to_string(peer.pid) + " hung up";
  }
  return "unknown descriptor " + std::to_string(fd);
}

void Neighborhood::forget_in_child() {
  mine_.window_memory.reset();
  mine_.eventfd.reset();
  arena_->memory().reset();
  mine_.window->forget();
  mine_.arena->forget();
  for (Peer& peer : peers_) {
    peer.socket.reset();
    peer.process.reset();
    peer.eventfd.reset();
    if (peer.window) peer.window->forget();
    if (peer.arena) peer.arena->forget();
  }
}

}  // namespace hora::shm
