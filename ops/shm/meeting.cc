#include "ops/shm/meeting.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <optional>
#include <utility>

#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/un.h>

#include "ops/shm/window.h"

namespace hora::shm {
namespace {

using std::chrono::milliseconds;
constexpr size_t kMemories = 3;  // window, arena, eventfd: the descriptors that go with a Hello
constexpr size_t kStrangers = 64;

struct Hello {
  static constexpr uint64_t kMagic = 0x316d68732d61726f;  // also the version of all shared layouts
  uint64_t magic, job;
  uint32_t epoch;
  int32_t rank, ranks, lanes, links, spare;
  uint64_t window_bytes, arena_bytes;
  // For a thread of the sender's own process: the sender's mappings, so that both use the same
  // addresses. Each is a shared_ptr on the heap that the receiver takes over.
  std::shared_ptr<Mapping>*window, *arena;
};

uint64_t hash_of(const std::string& text) {  // FNV-1a
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

/// How much of a timeout is left, as a descriptor that poll() understands.
class Deadline {
 public:
  explicit Deadline(milliseconds timeout) : timer_(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC)) {
    const auto ms = std::max<int64_t>(timeout.count(), 1);
    const itimerspec when{{}, {ms / 1000, ms % 1000 * 1000000}};
    ::timerfd_settime(timer_.get(), 0, &when, nullptr);
  }
  int fd() const { return timer_.get(); }
  milliseconds left() const {
    itimerspec now{};
    ::timerfd_gettime(timer_.get(), &now);
    return milliseconds(now.it_value.tv_sec * 1000 + now.it_value.tv_nsec / 1000000);
  }

 private:
  Descriptor timer_;
};

std::string random_name() {
  std::array<unsigned char, 16> bytes{};
  size_t have = 0;
  while (have < bytes.size()) {
    const ssize_t got = ::getrandom(bytes.data() + have, bytes.size() - have, 0);
    if (got > 0) have += static_cast<size_t>(got);
  }
  std::string name = "hora-";
  for (const unsigned char byte : bytes) {
    name += "0123456789abcdef"[byte >> 4];
    name += "0123456789abcdef"[byte & 15];
  }
  return name;
}

/// An address in the abstract namespace: no file to leave behind.
socklen_t address_of(const std::string& name, sockaddr_un& address) {
  address = {};
  address.sun_family = AF_UNIX;
  const size_t count = std::min(name.size(), sizeof(address.sun_path) - 1);
  std::memcpy(address.sun_path + 1, name.data(), count);
  return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + count);
}

ucred credentials_of(int socket) {
  ucred credentials{};
  credentials.uid = static_cast<uid_t>(-1);
  socklen_t bytes = sizeof(credentials);
  ::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &bytes);
  return credentials;
}

union Control {
  cmsghdr header;
  char bytes[CMSG_SPACE(sizeof(int) * kMemories)];
};

bool send_hello(int socket, Hello hello, const std::array<int, kMemories>& fds) {
  iovec bytes{&hello, sizeof(hello)};
  Control control{};
  msghdr message{};
  message.msg_iov = &bytes;
  message.msg_iovlen = 1;
  message.msg_control = &control;
  message.msg_controllen = sizeof(control.bytes);
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(fds));
  std::memcpy(CMSG_DATA(header), fds.data(), sizeof(fds));
  return ::sendmsg(socket, &message, MSG_NOSIGNAL) == sizeof(hello);
}

/// One whole Hello and its descriptors, or nothing.
bool receive_hello(int socket, Hello& hello, std::array<Descriptor, kMemories>& fds) {
  iovec bytes{&hello, sizeof(hello)};
  Control control{};
  msghdr message{};
  message.msg_iov = &bytes;
  message.msg_iovlen = 1;
  message.msg_control = &control;
  message.msg_controllen = sizeof(control.bytes);
  const ssize_t got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  size_t count = 0;
  for (cmsghdr* header = got < 0 ? nullptr : CMSG_FIRSTHDR(&message); header;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const size_t sent = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < sent && count < kMemories; ++i, ++count) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(fd));
      fds[count] = Descriptor(fd);
    }
  }
  return got == sizeof(hello) && hello.magic == Hello::kMagic && count == kMemories &&
         (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0;
}

bool shrinks(int memory) {
  return (::fcntl(memory, F_GET_SEALS) & F_SEAL_SHRINK) == 0;
}

std::string list_of(const std::vector<Rank>& ranks) {
  std::string list;
  for (const Rank rank : ranks) list += (list.empty() ? "" : ", ") + std::to_string(rank);
  return list;
}

class Meeting {
 public:
  Meeting(const Invitation& invitation, const Belongings& mine)
      : invitation_(invitation),
        mine_(mine),
        deadline_(invitation.timeout),
        peers_(invitation.ranks.size()) {
    for (size_t i = 0; i < peers_.size(); ++i) peers_[i].rank = invitation.ranks[i];
    const auto self = std::find(invitation.ranks.begin(), invitation.ranks.end(), invitation.rank);
    self_ = static_cast<size_t>(self - invitation.ranks.begin());
    here_.resize(peers_.size());
    here_[self_] = true;
  }

  ~Meeting() {
    while (listener_.valid()) {
      const Descriptor late(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (!late.valid()) break;
      discard(late.get());
    }
    for (const Talk& talk : talks_)
      if (talk.stage != Stage::kAcknowledgement) discard(talk.socket.get());
  }

  Result<std::vector<Peer>> run(const Publish& publish, const Lookup& lookup) {
    HORA_TRY(listen());
    HORA_TRY(publish(key_of(invitation_.rank), name_));
    for (size_t i = 0; i < self_; ++i) HORA_TRY(call(i, lookup));
    while (std::find(here_.begin(), here_.end(), false) != here_.end()) HORA_TRY(wait());
    return std::move(peers_);
  }

 private:
  enum class Stage { kHello, kAnswer, kAcknowledgement };
  struct Talk {
    Descriptor socket;
    Stage stage;
    size_t index;  // of the peer, once it is known
  };

  std::string key_of(Rank rank) const {
    return "shm/" + invitation_.job + "/" + std::to_string(invitation_.epoch) + "/" +
           std::to_string(rank);
  }

  Status listen() {
    listener_ = Descriptor(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    name_ = random_name();
    sockaddr_un address;
    const socklen_t bytes = address_of(name_, address);
    if (!listener_.valid() ||
        ::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), bytes) != 0 ||
        ::listen(listener_.get(), 4096) != 0)
      return failed(Code::kUnavailable, "listen on a unix socket", errno);
    return {};
  }

  Status missing(const std::vector<Rank>& ranks) const {
    return {Code::kTimeout, "shm: rank " + list_of(ranks) + " did not come to rank " +
                                std::to_string(invitation_.rank) + " within " +
                                std::to_string(invitation_.timeout.count()) + " ms"};
  }

  Status call(size_t index, const Lookup& lookup) {
    const Rank rank = peers_[index].rank;
    const Result<std::string> name = lookup(key_of(rank), deadline_.left());
    if (!name.ok()) return name.status().code() == Code::kTimeout ? missing({rank}) : name.status();
    Descriptor socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    const auto left = std::max<int64_t>(deadline_.left().count(), 1);
    const timeval limit{left / 1000, left % 1000 * 1000};  // connect() waits for a full backlog
    ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    sockaddr_un address;
    const socklen_t bytes = address_of(name.value(), address);
    if (!socket.valid() ||
        ::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), bytes) != 0)
      return failed(Code::kUnavailable, "reach rank " + std::to_string(rank), errno);
    if (credentials_of(socket.get()).uid != ::geteuid())
      return {Code::kUnavailable, "shm: rank " + std::to_string(rank) + " is of another user"};
    if (!greet(socket.get())) return hung_up(index);
    talks_.push_back({std::move(socket), Stage::kAnswer, index});
    return {};
  }

  Status hung_up(size_t index) const {
    return {Code::kUnavailable, "shm: rank " + std::to_string(peers_[index].rank) +
                                    " hung up while rank " + std::to_string(invitation_.rank) +
                                    " introduced itself; see its own error"};
  }

  /// Says Hello. Its last fields matter to a thread of this process only.
  bool greet(int socket) {
    Hello hello{Hello::kMagic,
                hash_of(invitation_.job),
                invitation_.epoch,
                invitation_.rank,
                static_cast<int32_t>(invitation_.ranks.size()),
                invitation_.lanes,
                invitation_.links,
                0,
                mine_.window->bytes(),
                mine_.arena->bytes(),
                nullptr,
                nullptr};
    std::unique_ptr<std::shared_ptr<Mapping>> window, arena;
    if (credentials_of(socket).pid == ::getpid()) {
      window = std::make_unique<std::shared_ptr<Mapping>>(mine_.window);
      arena = std::make_unique<std::shared_ptr<Mapping>>(mine_.arena);
      hello.window = window.get();
      hello.arena = arena.get();
    }
    const std::array<int, kMemories> fds{mine_.window_memory.get(), mine_.arena_memory,
                                         mine_.eventfd.get()};
    if (!send_hello(socket, hello, fds)) return false;
    (void)window.release();
    (void)arena.release();
    return true;
  }

  /// What a thread of this process gave with its Hello; nothing from others.
  static std::pair<std::shared_ptr<Mapping>, std::shared_ptr<Mapping>> take_over(const Hello& hello,
                                                                                 pid_t sender) {
    if (sender != ::getpid() || !hello.window || !hello.arena) return {};
    const std::unique_ptr<std::shared_ptr<Mapping>> window(hello.window), arena(hello.arena);
    return {*window, *arena};
  }

  /// Frees what came with a Hello that nobody will answer.
  static void discard(int socket) {
    Hello hello{};
    std::array<Descriptor, kMemories> fds;
    if (receive_hello(socket, hello, fds)) (void)take_over(hello, credentials_of(socket).pid);
  }

  /// Reads a Hello and, if all is as it must be, keeps what came with it in peers_[index].
  std::optional<size_t> welcome(int socket) {
    Hello hello{};
    std::array<Descriptor, kMemories> fds;
    if (!receive_hello(socket, hello, fds)) return {};
    const ucred who = credentials_of(socket);
    auto [window, arena] = take_over(hello, who.pid);
    const auto rank = std::find(invitation_.ranks.begin(), invitation_.ranks.end(), hello.rank);
    if (rank == invitation_.ranks.end() || !fits(hello, fds[0].get(), fds[1].get())) return {};
    const auto index = static_cast<size_t>(rank - invitation_.ranks.begin());
    if (here_[index]) return {};
    if (!window) {
      auto first = Mapping::map(fds[0].get(), hello.window_bytes);
      auto second = Mapping::map(fds[1].get(), hello.arena_bytes);
      if (!first.ok() || !second.ok()) {
        fault_ = first.ok() ? second.status() : first.status();
        return {};
      }
      window = first.value();
      arena = second.value();
    }
    Peer& peer = peers_[index];
    peer.pid = who.pid;
    peer.eventfd = std::move(fds[2]);
    peer.window = std::move(window);
    peer.arena = std::move(arena);
    if (who.pid > 0 && who.pid != ::getpid())
      peer.process = Descriptor(static_cast<int>(::syscall(SYS_pidfd_open, who.pid, 0)));
    return index;
  }

  bool fits(const Hello& hello, int window, int arena) const {
    struct stat file {};
    return hello.job == hash_of(invitation_.job) && hello.epoch == invitation_.epoch &&
           hello.ranks == static_cast<int32_t>(invitation_.ranks.size()) &&
           hello.lanes == invitation_.lanes && hello.links >= 0 && hello.links < hello.ranks &&
           hello.window_bytes == Window::bytes_for(hello.ranks, hello.lanes, hello.links) &&
           ::fstat(window, &file) == 0 &&
           static_cast<uint64_t>(file.st_size) >= hello.window_bytes && !shrinks(window) &&
           !shrinks(arena);
  }

  Status wait() {
    std::vector<pollfd> fds{{deadline_.fd(), POLLIN, 0}, {listener_.get(), POLLIN, 0}};
    for (const Talk& talk : talks_) fds.push_back({talk.socket.get(), POLLIN, 0});
    if (::poll(fds.data(), fds.size(), -1) < 0 && errno != EINTR)
      return failed(Code::kInternal, "poll", errno);
    for (size_t i = talks_.size(); i-- > 0;)
      if (fds[i + 2].revents != 0) HORA_TRY(go_on(i));
    if (fds[1].revents != 0) accept();
    if (fds[0].revents == 0) return {};
    std::vector<Rank> late;
    for (size_t i = 0; i < here_.size(); ++i)
      if (!here_[i]) late.push_back(peers_[i].rank);
    return late.empty() ? Status() : missing(late);
  }

  void accept() {
    Descriptor socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!socket.valid() || credentials_of(socket.get()).uid != ::geteuid()) return;
    if (talks_.size() > peers_.size() + kStrangers) return;
    talks_.push_back({std::move(socket), Stage::kHello, 0});
  }

  /// The next step of one conversation. A stranger is hung up on; a peer that was called and does
  /// not answer properly is an error.
  Status go_on(size_t number) {
    Talk talk = std::move(talks_[number]);
    talks_.erase(talks_.begin() + static_cast<std::ptrdiff_t>(number));
    if (talk.stage == Stage::kAcknowledgement) {
      char byte = 0;
      if (::recv(talk.socket.get(), &byte, 1, MSG_DONTWAIT) == 1) settle(talk);
      return {};
    }
    const std::optional<size_t> who = welcome(talk.socket.get());
    HORA_TRY(fault_);
    if (talk.stage == Stage::kAnswer) {
      const char byte = 'A';
      if (who != talk.index || ::send(talk.socket.get(), &byte, 1, MSG_NOSIGNAL) != 1)
        return hung_up(talk.index);
      settle(talk);
    } else if (who && *who > self_ && greet(talk.socket.get())) {
      talks_.push_back({std::move(talk.socket), Stage::kAcknowledgement, *who});
    }
    return {};
  }

  void settle(Talk& talk) {
    peers_[talk.index].socket = std::move(talk.socket);
    here_[talk.index] = true;
  }

  const Invitation& invitation_;
  const Belongings& mine_;
  const Deadline deadline_;
  std::vector<Peer> peers_;
  std::vector<bool> here_;
  size_t self_ = 0;
  Descriptor listener_;
  std::string name_;
  std::vector<Talk> talks_;
  Status fault_;
};

}  // namespace

Result<std::vector<Peer>> meet_all(const Invitation& invitation, const Belongings& mine,
                                   const Publish& publish, const Lookup& lookup) {
  return Meeting(invitation, mine).run(publish, lookup);
}

}  // namespace hora::shm
