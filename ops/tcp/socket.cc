#include "ops/tcp/socket.h"

#include <cerrno>

#include <sys/socket.h>

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

ssize_t Socket::read(iovec* pieces, size_t count) {
  msghdr message = message_of(pieces, count);
  return uninterrupted([&] { return ::recvmsg(get(), &message, MSG_DONTWAIT); });
}

ssize_t Socket::read(void* to, size_t bytes) {
  return uninterrupted([&] { return ::recv(get(), to, bytes, MSG_DONTWAIT); });
}

ssize_t Socket::write(iovec* pieces, size_t count) {
  msghdr message = message_of(pieces, count);
  return uninterrupted([&] { return ::sendmsg(get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL); });
}

ssize_t Socket::write(std::string_view bytes) {
  return uninterrupted(
      [&] { return ::send(get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL); });
}

}  // namespace hora::tcp
