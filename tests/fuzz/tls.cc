// A stranger without the key on either side of an encrypted connection: nothing that he says is
// taken for a member's, and the connection ends or waits.
//
//   input = side:u8 what the stranger says
#include "ops/tcp/tls.h"

#include <array>
#include <cerrno>
#include <cstdint>
#include <memory>

#include <sys/socket.h>

#include "ops/tcp/socket.h"
#include "tests/fuzz/fuzz.h"

using namespace hora;
using namespace hora::tcp;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  if (bytes == 0) return 0;
  static const auto key = std::make_shared<const TlsKey>(Secret{42}, job_of("a job"));
  int ends[2];
  FUZZ_CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
  Socket mine{Descriptor(ends[0]), key, data[0] % 2 ? Side::kClient : Side::kServer};
  Descriptor stranger(ends[1]);
  FUZZ_CHECK(::send(stranger.get(), data + 1, bytes - 1, MSG_NOSIGNAL) ==
             static_cast<ssize_t>(bytes - 1));
  std::array<char, 256> heard;
  for (int turn = 0; turn < 2; ++turn) {
    if (turn == 1) stranger.reset();
    const ssize_t got = mine.read(heard.data(), heard.size());
    FUZZ_CHECK(got == -1);
    FUZZ_CHECK(mine.agreeing() && !mine.failure().message().empty());
    FUZZ_CHECK(turn == 0 || errno != EAGAIN);
    FUZZ_CHECK(mine.write("secret") == -1);
  }
  return 0;
}
