// A client of the store that says anything at all: it is answered or cut off, and others are
// served.
#include "runtime/store.h"

#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include <sys/socket.h>

#include "ops/descriptor.h"
#include "runtime/store_wire.h"
#include "tests/fuzz/fuzz.h"

using namespace hora;

namespace {

constexpr int kAskEvery = 64;  // inputs between two questions of a good client

std::unique_ptr<StoreServer> start() {
  auto server = StoreServer::start("@hora-fuzz-" + std::to_string(::getpid()));
  FUZZ_CHECK(server.ok());
  return std::move(server.value());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  static int inputs = 0;
  static std::unique_ptr<StoreServer> server;
  if (inputs % 4096 == 0) server.reset(), server = start();  // it keeps what it is told
  const auto address = store_wire::socket_address(server->address());
  FUZZ_CHECK(address.has_value());
  Descriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  FUZZ_CHECK(
      ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof(*address)) == 0);
  [[maybe_unused]] const auto sent = ::send(socket.get(), data, bytes, MSG_NOSIGNAL);
  ::shutdown(socket.get(), SHUT_WR);
  char answer[256];
  while (::recv(socket.get(), answer, sizeof answer, 0) > 0) continue;
  if (++inputs % kAskEvery) return 0;
  const auto client = connect_store(server->address(), std::chrono::seconds(20));
  FUZZ_CHECK(client.ok());
  const std::string key = "good/" + std::to_string(inputs);
  FUZZ_CHECK(client.value()->set(key, "value").ok());
  const auto value = client.value()->get(key, std::chrono::seconds(20));
  FUZZ_CHECK(value.ok() && value.value() == "value");
  return 0;
}
