#include "ops/tcp/endpoint.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

#include "ops/tcp/tls.h"

namespace hora::tcp {
namespace {

using std::chrono::milliseconds;

constexpr size_t kUnproved = 64;
constexpr uint64_t kWake = 0, kAcceptAgain = 1, kFirstListener = 2, kFirstTalk = 1024;
// Of a call: for an answer, and between rounds through all addresses; they double with each round.
constexpr milliseconds kFirstPatience{1'000}, kFirstPause{20}, kLongestPause{1'000};
constexpr milliseconds kAcceptPause{50};
// In an event's id: one of a talk's timers, not its socket.
constexpr uint64_t kTimer = uint64_t{1} << 63, kLimit = uint64_t{1} << 62;

Descriptor make_timer() {
  return Descriptor(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
}

void set_timer(const Descriptor& timer, milliseconds after) {
  const auto ms = std::max<int64_t>(after.count(), 1);
  const itimerspec when{{}, {ms / 1000, ms % 1000 * 1'000'000}};
  ::timerfd_settime(timer.get(), 0, &when, nullptr);
}

milliseconds left_on(const Descriptor& timer) {
  itimerspec left{};
  ::timerfd_gettime(timer.get(), &left);
  return milliseconds(left.it_value.tv_sec * 1000 + left.it_value.tv_nsec / 1'000'000);
}

bool expired(const Descriptor& timer) {
  uint64_t times = 0;
  return ::read(timer.get(), &times, sizeof(times)) == sizeof(times);
}

/// Has the other end closed a connection that nobody reads yet?
bool hung_up(const Socket& socket) {
  char byte = 0;
  const ssize_t got = ::recv(socket.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  return got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR);
}

}  // namespace

struct Endpoint::Talk {
  enum class Stage : uint8_t { kConnecting, kProving, kPausing };
  uint64_t id = 0;
  Stage stage = Stage::kProving;
  Socket socket;
  Descriptor timer;  ///< the end of this attempt, or of the pause before the next
  std::optional<Handshake> handshake;

  // Of a call.
  bool calls = false;
  Key key;
  Descriptor limit;  ///< the end of all attempts
  std::vector<Address> addresses;
  std::vector<std::string> causes;  ///< why the last attempt at each address failed
  size_t next = 0;                  ///< address
  milliseconds proves_for{0};       ///< how long this attempt may take to prove both sides
  bool refused = false;             ///< at once, at one of the addresses of this round
  int refusals = 0;                 ///< rounds in a row in which that happened
  milliseconds patience = kFirstPatience, pause = kFirstPause;
};

Endpoint::Endpoint(Options options)
    : options_(std::move(options)),
      key_(handshake_key(options_.secret, options_.self.job)),
      tls_(options_.tls ? std::make_shared<const TlsKey>(options_.secret, options_.self.job)
                        : nullptr),
      ring_(options_.ring) {}

Result<std::shared_ptr<Endpoint>> Endpoint::open(const Options& options) {
  std::shared_ptr<Endpoint> endpoint(std::unique_ptr<Endpoint>(new Endpoint(options)));
  HORA_TRY(endpoint->listen());
  sigset_t all, before;  // signals belong to the program's own threads
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  endpoint->thread_ = std::thread([self = endpoint.get()] { self->serve(); });
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  ::pthread_setname_np(endpoint->thread_.native_handle(), "hora-endpoint");
  return endpoint;
}

Endpoint::~Endpoint() {
  stop_.store(true, std::memory_order_release);
  wake();
  if (thread_.joinable()) thread_.join();
}

Status Endpoint::listen() {
  epoll_ = Descriptor(::epoll_create1(EPOLL_CLOEXEC));
  wake_ = Descriptor(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  accept_again_ = make_timer();
  if (!epoll_.valid() || !wake_.valid() || !accept_again_.valid())
    return Status(Code::kUnavailable,
                  fmt::format("tcp: no descriptors left: {}", std::strerror(errno)));
  auto listening = listen_for_peers(options_.bind, 0, options_.buffer_bytes);
  if (!listening.ok())
    return Status(listening.status().code(),
                  (options_.bind.empty() ? "" : "HORA_ADDRESS: ") + listening.status().message());
  listeners_ = std::move(listening.value().sockets);
  addresses_ = std::move(listening.value().addresses);
  watch(wake_.get(), kWake);
  watch(accept_again_.get(), kAcceptAgain);
  for (size_t i = 0; i < listeners_.size(); ++i) watch(listeners_[i].get(), kFirstListener + i);
  return {};
}

std::string Endpoint::addresses() const {
  return addresses_;
}

void Endpoint::know(Rank peer, const std::string& addresses) {
  auto found = resolve(addresses);
  const std::lock_guard lock(mutex_);
  if (!peers_.insert_or_assign(peer, std::move(found)).second) return;
  for (const auto& [key, link] : links_)
    if (key.peer == peer && link.state == Link::State::kWanted && peer < self().rank)
      to_call_.push_back(key);
  wake();
}

void Endpoint::on_ready(std::function<void()> ring) {
  const std::lock_guard lock(mutex_);
  ring_ = std::move(ring);
}

void Endpoint::want(const Key& key) {
  HORA_CHECK(key.peer != self().rank, "a rank does not connect to itself");
  const std::lock_guard lock(mutex_);
  const auto [it, fresh] = links_.try_emplace(key, Link{Link::State::kWanted, {}, {}});
  if (it->second.state == Link::State::kOffered) it->second.state = Link::State::kReady;
  if (!fresh || key.peer > self().rank || !peers_.contains(key.peer)) return;
  to_call_.push_back(key);
  wake();
}

Result<std::optional<Socket>> Endpoint::take(const Key& key) {
  const std::lock_guard lock(mutex_);
  const auto it = links_.find(key);
  if (it == links_.end() || it->second.state == Link::State::kWanted ||
      it->second.state == Link::State::kOffered)
    return std::optional<Socket>();
  Link& link = it->second;
  if (link.state == Link::State::kFailed) return link.error;
  if (link.state == Link::State::kTaken)
    return Status(Code::kInternal, fmt::format("tcp: {} connection {} to rank {} was taken before",
                                               name_of(key.role), key.stream, key.peer));
  link.state = Link::State::kTaken;
  return std::optional<Socket>(std::move(link.socket));
}

Result<Socket> Endpoint::wait(const Key& key, milliseconds timeout) {
  want(key);
  {
    std::unique_lock lock(mutex_);
    const Link& link = links_.at(key);
    if (!changed_.wait_for(lock, timeout, [&] { return link.state != Link::State::kWanted; }))
      return Status(Code::kTimeout, fmt::format("tcp: rank {} waited {} ms for rank {} to connect",
                                                self().rank, timeout.count(), key.peer));
  }
  auto taken = take(key);
  if (!taken.ok()) return taken.status();
  return std::move(*taken.value());
}

void Endpoint::forget_in_child() {
  for (Descriptor& listener : listeners_) listener.reset();
  epoll_.reset();
  wake_.reset();
  accept_again_.reset();
  if (on_fork_) on_fork_();
  // If another thread was just changing them, the child keeps them: better than to wait for ever.
  if (!mutex_.try_lock()) return;
  for (auto& [key, link] : links_) link.socket.reset();
  mutex_.unlock();
}

void Endpoint::wake() const {
  const uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(wake_.get(), &one, sizeof(one));
}

void Endpoint::watch(int descriptor, uint64_t id) const {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = id;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, descriptor, &event);
}

void Endpoint::serve() {
  std::array<epoll_event, 32> events;
  while (!stop_.load(std::memory_order_acquire)) {
    const int count =
        ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), -1);
    for (int i = 0; i < count; ++i) attend(events[static_cast<size_t>(i)].data.u64);
  }
}

void Endpoint::attend(uint64_t id) {
  if (id == kWake) {
    uint64_t times = 0;
    [[maybe_unused]] const auto got = ::read(wake_.get(), &times, sizeof(times));
    return begin_calls();
  }
  if (id == kAcceptAgain) {
    if (expired(accept_again_)) accept_later(false);
    return;
  }
  const uint64_t talk_id = id & ~(kTimer | kLimit);
  if (talk_id < kFirstTalk) return accept_all(listeners_[id - kFirstListener].get());
  const auto it = talks_.find(talk_id);
  if (it == talks_.end()) return;  // an event before this one ended it
  Talk& talk = *it->second;
  if (id & kLimit) return expired(talk.limit) ? give_up(talk) : void();
  if (id & kTimer) {
    if (!expired(talk.timer)) return;
    if (talk.stage == Talk::Stage::kPausing) return attempt(talk);
    if (talk.calls) return attempt_failed(talk, "no answer in time");
    return cut_off(talk, "it did not say enough in time");
  }
  talk.stage == Talk::Stage::kConnecting ? connected(talk) : prove(talk);
}

void Endpoint::end(Talk& talk) {
  if (!talk.calls && --unproved_ < kUnproved && !accepting_) accept_later(false);
  talks_.erase(talk.id);
}

// Those who connect to this rank.

/// Without the room or the means to accept, those who connect wait in the system's queue.
/// `retry`: nobody but time can tell when there are means again.
void Endpoint::accept_later(bool retry) {
  accepting_ = unproved_ < kUnproved && !retry;
  for (size_t i = 0; i < listeners_.size(); ++i) {
    epoll_event event{};
    event.events = accepting_ ? static_cast<uint32_t>(EPOLLIN) : 0;
    event.data.u64 = kFirstListener + i;
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, listeners_[i].get(), &event);
  }
  if (retry) set_timer(accept_again_, kAcceptPause);
}

void Endpoint::accept_all(int listener) {
  while (unproved_ < kUnproved) {
    Descriptor socket(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket.valid()) {
      if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
        accept_later(true);
      return;
    }
    auto talk = std::make_unique<Talk>();
    talk->id = kFirstTalk + next_id_++;
    talk->socket = Socket(std::move(socket), tls_, Side::kServer);
    talk->timer = make_timer();
    if (!talk->timer.valid()) return accept_later(true);
    talk->handshake = Handshake::server(key_, options_.self, fresh_nonce());
    prepare(talk->socket.get(), 0);
    set_timer(talk->timer, options_.handshake_timeout);
    watch(talk->timer.get(), talk->id | kTimer);
    watch(talk->socket.get(), talk->id);
    ++unproved_;
    talks_.emplace(talk->id, std::move(talk));
  }
  accept_later(false);
}

/// Moves the handshake on with what has come.
void Endpoint::prove(Talk& talk) {
  const Status status = exchange(talk);
  if (!status.ok()) return talk.calls ? refused(talk, status) : cut_off(talk, status.message());
  if (!talk.handshake->done()) {
    if (talk.calls && talk.handshake->proved()) await_acceptance(talk);
    return;
  }
  if (!talk.calls) return admit(talk);
  const Key key = talk.key;
  Socket socket = std::move(talk.socket);
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, socket.get(), nullptr);
  end(talk);
  settle(key, std::move(socket), {});
}

/// The server may have kept this connection already, and its word be late, on a link that was cut
/// for a moment: another attempt would find the place taken, and the server the first one closed.
void Endpoint::await_acceptance(Talk& talk) {
  const milliseconds more = left_on(talk.limit) - left_on(talk.timer);
  if (more <= milliseconds(0)) return;
  talk.proves_for += more;
  set_timer(talk.timer, left_on(talk.limit));
}

Status Endpoint::say(Talk& talk) const {
  std::string& output = talk.handshake->output;
  const ssize_t sent = talk.socket.write(output);
  if (sent < 0 && errno != EAGAIN) return talk.socket.failure();
  if (sent > 0) output.erase(0, static_cast<size_t>(sent));
  return {};
}

/// Errors: kUnavailable: it is the network's fault; else the other side wants nothing of this one.

Status Endpoint::exchange(Talk& talk) const {
  Handshake& handshake = *talk.handshake;
  std::array<char, Handshake::kHello> bytes;
  for (;;) {
    // Whether a server accepts what is proven is for admit() to say.
    if (!handshake.output.empty() && (talk.calls || !handshake.done())) HORA_TRY(say(talk));
    // A connection that has carried nothing yet has room for all; encryption may want to read
    // first.
    if (handshake.done() || (talk.calls && !handshake.output.empty())) return {};
    const ssize_t got = talk.socket.read(bytes.data(), handshake.wants());
    if (got > 0) {
      const Status fed = handshake.feed({bytes.data(), static_cast<size_t>(got)});
      if (!fed.ok()) (void)say(talk);
      HORA_TRY(fed);
    } else if (got == 0 || errno == ECONNRESET) {
      return talk.calls ? Status(Code::kMismatch, std::string(handshake.reason()))
                        : Status(Code::kUnavailable, "it hung up");
    } else {
      return errno == EAGAIN ? Status() : talk.socket.failure();
    }
  }
}

/// Keeps a connection whose other end has proved itself.
void Endpoint::admit(Talk& talk) {
  const auto& claim = talk.handshake->claim();
  if (claim.role == Role::kStore || claim.rank <= self().rank)
    return cut_off(talk, fmt::format("rank {} has no business to connect to rank {}", claim.rank,
                                     self().rank));
  const Key key{claim.rank, claim.role, claim.stream};
  Status refused;
  {
    // Accepted and kept under one lock: whoever takes it finds the acceptance sent.
    const std::lock_guard lock(mutex_);
    const auto it = links_.find(key);
    // One that its maker gave up before it was taken makes room for the next attempt.
    const bool there = it != links_.end() && it->second.state != Link::State::kWanted &&
                       (it->second.state == Link::State::kTaken || !hung_up(it->second.socket));
    refused =
        there ? Status(Code::kInvalidArgument, fmt::format("rank {} has this {} connection already",
                                                           claim.rank, name_of(claim.role)))
              : say(talk);
    if (refused.ok() && !talk.handshake->output.empty())
      refused = Status(Code::kUnavailable, "it takes no bytes");
    if (refused.ok()) {
      ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, talk.socket.get(), nullptr);
      const bool wanted = it != links_.end() && it->second.state != Link::State::kOffered;
      const auto state = wanted ? Link::State::kReady : Link::State::kOffered;
      links_.insert_or_assign(key, Link{state, std::move(talk.socket), {}});
    }
  }
  if (!refused.ok()) return cut_off(talk, refused.message());
  end(talk);
  changed_.notify_all();
  ring();
}

void Endpoint::cut_off(Talk& talk, const std::string& cause) {
  const bool first = strangers_.fetch_add(1, std::memory_order_relaxed) == 0;
  if (first && options_.warn)
    options_.warn(
        fmt::format("rank {} cut off a connection from {}: {}. It changes nothing; others like it "
                    "are only counted",
                    self().rank, peer_of(talk.socket.get()), cause));
  end(talk);
}

// Calls: to the ranks below this one.

void Endpoint::begin_calls() {
  std::vector<std::pair<Key, Result<std::vector<Address>>>> calls;
  {
    const std::lock_guard lock(mutex_);
    for (const Key& key : to_call_) calls.emplace_back(key, peers_.at(key.peer));
    to_call_.clear();
  }
  for (const auto& [key, addresses] : calls) begin_call(key, addresses);
}

void Endpoint::begin_call(const Key& key, const Result<std::vector<Address>>& addresses) {
  if (!addresses.ok() || addresses.value().empty())
    return settle(
        key, {},
        Status(
            Code::kUnavailable,
            fmt::format("tcp: rank {} cannot connect to rank {}: {}", self().rank, key.peer,
                        addresses.ok() ? "it has told no address" : addresses.status().message())));
  auto made = std::make_unique<Talk>();
  Talk& talk = *made;
  talk.id = kFirstTalk + next_id_++;
  talk.calls = true;
  talk.key = key;
  talk.addresses = addresses.value();
  talk.causes.assign(talk.addresses.size(), "not tried");
  talk.timer = make_timer();
  talk.limit = make_timer();
  talks_.emplace(talk.id, std::move(made));
  if (!talk.timer.valid() || !talk.limit.valid()) {
    talk.causes.assign(talk.addresses.size(), "no descriptors left");
    return give_up(talk);
  }
  watch(talk.timer.get(), talk.id | kTimer);
  watch(talk.limit.get(), talk.id | kLimit);
  set_timer(talk.limit, options_.connect_timeout);
  attempt(talk);
}

void Endpoint::attempt(Talk& talk) {
  const Address& where = talk.addresses[talk.next];
  talk.stage = Talk::Stage::kConnecting;
  set_timer(talk.timer, talk.patience);
  talk.socket =
      Socket(Descriptor(::socket(where.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)),
             tls_, Side::kClient);
  if (!talk.socket.valid()) return attempt_failed(talk, std::strerror(errno));
  prepare(talk.socket.get(), options_.buffer_bytes);
  const int result = ::connect(talk.socket.get(), where.get(), where.bytes);
  if (result != 0 && errno != EINPROGRESS) return attempt_failed(talk, std::strerror(errno));
  epoll_event event{};
  event.events = EPOLLOUT;
  event.data.u64 = talk.id;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, talk.socket.get(), &event);
}

void Endpoint::connected(Talk& talk) {
  int error = 0;
  socklen_t bytes = sizeof(error);
  ::getsockopt(talk.socket.get(), SOL_SOCKET, SO_ERROR, &error, &bytes);
  if (error != 0) return attempt_failed(talk, std::strerror(error));
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = talk.id;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, talk.socket.get(), &event);
  talk.stage = Talk::Stage::kProving;
  // Strangers may hold all places there, for as long as they are given to prove themselves.
  talk.proves_for = std::max(talk.patience, 2 * options_.handshake_timeout);
  set_timer(talk.timer, talk.proves_for);
  talk.handshake = Handshake::client(key_, options_.self, talk.key.peer, talk.key.role,
                                     talk.key.stream, fresh_nonce());
  prove(talk);
}

/// A server that had no time for this rank also hangs up, but not at once.
void Endpoint::refused(Talk& talk, const Status& why) {
  const bool at_once = talk.proves_for - left_on(talk.timer) < options_.handshake_timeout / 2;
  talk.refused |= at_once && why.code() != Code::kUnavailable;
  attempt_failed(talk, why.message());
}

void Endpoint::attempt_failed(Talk& talk, const std::string& cause) {
  talk.causes[talk.next] = cause;
  talk.socket.reset();
  talk.stage = Talk::Stage::kPausing;
  talk.next = (talk.next + 1) % talk.addresses.size();
  if (talk.next > 0) return set_timer(talk.timer, milliseconds(0));
  talk.refusals = std::exchange(talk.refused, false) ? talk.refusals + 1 : 0;
  if (talk.refusals == kRefusals) return give_up(talk);
  set_timer(talk.timer, talk.pause);
  talk.pause = std::min(2 * talk.pause, kLongestPause);
  talk.patience = std::min(2 * talk.patience, options_.connect_timeout);
}

void Endpoint::give_up(Talk& talk) {
  std::string text =
      fmt::format("tcp: rank {} cannot connect to rank {}", self().rank, talk.key.peer);
  for (size_t i = 0; i < talk.addresses.size(); ++i)
    text += fmt::format("{} {}: {}", i == 0 ? ":" : ";", talk.addresses[i].text(), talk.causes[i]);
  if (talk.stage != Talk::Stage::kPausing) text += " (the last attempt was under way)";
  const Key key = talk.key;
  end(talk);
  settle(key, {}, Status(Code::kUnavailable, std::move(text)));
}

void Endpoint::settle(const Key& key, Socket socket, Status error) {
  {
    const std::lock_guard lock(mutex_);
    const auto state = error.ok() ? Link::State::kReady : Link::State::kFailed;
    links_.insert_or_assign(key, Link{state, std::move(socket), std::move(error)});
  }
  changed_.notify_all();
  ring();
}

void Endpoint::ring() {
  std::function<void()> ring;
  {
    const std::lock_guard lock(mutex_);
    ring = ring_;
  }
  if (ring) ring();
}

}  // namespace hora::tcp
