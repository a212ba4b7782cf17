#include "ops/tcp/socket.h"

#include <cerrno>
#include <cstring>
#include <utility>

#include <sys/socket.h>

#include "ops/tcp/tls.h"

namespace hora::tcp {
namespace {

template <class Call>
ssize_t uninterrupted(Call call) {
  for (;;) {
    const ssize_t result = call();
    if (result >= 0 || errno != EINTR) return result;
  }
}

msghdr message_of(iovec* pieces, size_t count) {
  msghdr message{};
  message.msg_iov = pieces;
  message.msg_iovlen = count;
  return message;
}

}  // namespace

Socket::Socket() = default;
Socket::Socket(Socket&& other) noexcept = default;
Socket& Socket::operator=(Socket&& other) noexcept = default;
Socket::~Socket() = default;

Socket::Socket(Descriptor descriptor, std::shared_ptr<const TlsKey> key, Side side)
    : descriptor_(std::move(descriptor)) {
  if (key) tls_ = std::make_unique<Tls>(std::move(key), descriptor_.get(), side);
}

ssize_t Socket::read(iovec* pieces, size_t count) {
  if (tls_) return tls_->read(pieces, count);
  msghdr message = message_of(pieces, count);
  return uninterrupted([&] { return ::recvmsg(get(), &message, MSG_DONTWAIT); });
}

ssize_t Socket::read(void* to, size_t bytes) {
  iovec piece{to, bytes};
  if (tls_) return tls_->read(&piece, 1);
  return uninterrupted([&] { return ::recv(get(), to, bytes, MSG_DONTWAIT); });
}

ssize_t Socket::write(iovec* pieces, size_t count) {
  if (tls_) return tls_->write(pieces, count);
  msghdr message = message_of(pieces, count);
  return uninterrupted([&] { return ::sendmsg(get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL); });
}

ssize_t Socket::write(std::string_view bytes) {
  const iovec piece{const_cast<char*>(bytes.data()), bytes.size()};
  if (tls_) return tls_->write(&piece, 1);
  return uninterrupted(
      [&] { return ::send(get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL); });
}

bool Socket::agreeing() const {
  return tls_ && tls_->agreeing();
}

Status Socket::failure() const {
  if (tls_ && errno == EPROTO) return tls_->error();
  return {Code::kUnavailable, std::strerror(errno)};
}

}  // namespace hora::tcp
