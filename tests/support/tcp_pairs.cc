#include "tests/support/tcp_pairs.h"

#include <fcntl.h>

#include <chrono>
#include <tuple>
#include <utility>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "ops/tcp/tls.h"

namespace hora::support {
namespace {

constexpr int kBufferBytes = 64 << 10;          // small, so that tests see them full
constexpr uint64_t kRenewAfterBytes = 100'000;  // so that tests see several keys

void prepare(int socket) {
  const int one = 1;
  HORA_CHECK(::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) == 0, "no delay");
  HORA_CHECK(::fcntl(socket, F_SETFL, O_NONBLOCK) == 0, "blocks");
}

std::pair<Descriptor, Descriptor> connect_two() {
  Descriptor listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  auto* const any = reinterpret_cast<sockaddr*>(&address);
  ::setsockopt(listener.get(), SOL_SOCKET, SO_RCVBUF, &kBufferBytes, sizeof(kBufferBytes));
  HORA_CHECK(::bind(listener.get(), any, length) == 0, "no port on loopback");
  HORA_CHECK(::listen(listener.get(), 1) == 0, "cannot listen on loopback");
  HORA_CHECK(::getsockname(listener.get(), any, &length) == 0, "no name");
  Descriptor a(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ::setsockopt(a.get(), SOL_SOCKET, SO_SNDBUF, &kBufferBytes, sizeof(kBufferBytes));
  HORA_CHECK(::connect(a.get(), any, length) == 0, "cannot connect on loopback");
  Descriptor b(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  prepare(a.get());
  prepare(b.get());
  return {std::move(a), std::move(b)};
}

}  // namespace

TcpPairs::TcpPairs(int size, int numbers, bool encrypted)
    : size_(size),
      numbers_(numbers),
      ends_(static_cast<size_t>(size) * static_cast<size_t>(size) * static_cast<size_t>(numbers)) {
  for (Rank a = 0; a < size; ++a) {
    for (Rank b = a + 1; b < size; ++b) {
      for (int number = 0; number < numbers; ++number) {
        auto [one, other] = connect_two();
        auto& mine = ends_[place(a, b, number)];
        auto& theirs = ends_[place(b, a, number)];
        if (encrypted)
          std::tie(mine, theirs) = encrypt(std::move(one), std::move(other), kRenewAfterBytes);
        else
          mine = tcp::Socket(std::move(one)), theirs = tcp::Socket(std::move(other));
      }
    }
  }
}

size_t TcpPairs::place(Rank self, Rank peer, int number) const {
  return static_cast<size_t>((self * size_ + peer) * numbers_ + number);
}

tcp::Socket TcpPairs::end(Rank self, Rank peer, int number) {
  const std::lock_guard lock(mutex_);
  return std::exchange(ends_[place(self, peer, number)], tcp::Socket());
}

tcp::Dial TcpPairs::dial(Rank self) {
  return {[](Rank, uint8_t) {},
          [this, self](Rank peer, uint8_t number) -> Result<std::optional<tcp::Socket>> {
            tcp::Socket taken = end(self, peer, number);
            if (!taken.valid()) return Status(Code::kUnavailable, "taken before");
            return std::optional<tcp::Socket>(std::move(taken));
          }};
}

void TcpPairs::keep_only(Rank self) {
  const std::lock_guard lock(mutex_);
  for (Rank rank = 0; rank < size_; ++rank)
    for (Rank peer = 0; rank != self && peer < size_; ++peer)
      for (int number = 0; number < numbers_; ++number) ends_[place(rank, peer, number)].reset();
}

std::pair<tcp::Socket, tcp::Socket> encrypt(Descriptor client, Descriptor server,
                                            uint64_t renew_after_bytes) {
  const auto key =
      std::make_shared<const tcp::TlsKey>(tcp::Secret{1}, tcp::job_of("a job"), renew_after_bytes);
  tcp::Socket a(std::move(client), key, tcp::Side::kClient);
  tcp::Socket b(std::move(server), key, tcp::Side::kServer);
  char byte = 0;
  while (a.write("x") != 1) (void)b.read(&byte, 1);
  while (b.read(&byte, 1) != 1) continue;
  return {std::move(a), std::move(b)};
}

tcp::Options tcp_options(Rank self) {
  tcp::Options options;
  options.self = self;
  options.streams = kTcpStreams;
  options.now = [] {
    return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
  };
  return options;
}

}  // namespace hora::support
