// A stranger on either side of the handshake: it never passes, and costs a bounded input.
//
//   input = side:u8 what the other side says
#include "ops/tcp/handshake.h"

#include <algorithm>
#include <cstdint>
#include <string>

#include "tests/fuzz/fuzz.h"

using namespace hora;
using namespace hora::tcp;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  if (bytes == 0) return 0;
  Identity self;
  self.job = job_of("a job"), self.epoch = 3, self.rank = 1;
  static const Secret key = handshake_key(Secret{42}, self.job);
  Nonce nonce{};
  nonce[0] = 7;
  Handshake mine = data[0] % 2 ? Handshake::client(key, self, 0, Role::kData, 2, nonce)
                               : Handshake::server(key, self, nonce);
  std::string_view rest = fuzz::text(data + 1, bytes - 1);
  while (!rest.empty()) {
    const size_t wanted = mine.wants();
    FUZZ_CHECK(wanted > 0 && wanted <= Handshake::kHello);
    const std::string_view front = rest.substr(0, std::min(wanted, rest.size()));
    rest.remove_prefix(front.size());
    if (const Status fed = mine.feed(front); !fed.ok()) {
      FUZZ_CHECK(!fed.message().empty() && !mine.done());
      return 0;
    }
    FUZZ_CHECK(!mine.done());  // nobody who lacks the key has a proof
    FUZZ_CHECK(mine.output.size() <= Handshake::kHello + Handshake::kMac);
  }
  (void)mine.reason().size();
  (void)parse_secret(fuzz::text(data, bytes)).ok();
  return 0;
}
