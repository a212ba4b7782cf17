// What an agent on another host, or whoever answers in its place, says to horarun.
//
//   input = how:u8 bytes; bit 0 of `how`: a greeting comes first; the rest: bytes fed at once
#include <algorithm>
#include <cstdint>
#include <string>

#include "launcher/agent_wire.h"
#include "tests/fuzz/fuzz.h"

using namespace hora;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  if (bytes == 0) return 0;
  agent_wire::Inbox inbox(data[0] & 1);
  const size_t at_once = 1 + data[0] / 2 * size_t{8};
  std::string_view rest = fuzz::text(data + 1, bytes - 1);
  while (!rest.empty()) {
    const std::string_view front = rest.substr(0, at_once);
    rest.remove_prefix(front.size());
    inbox.feed(front);
    for (;;) {
      const auto next = inbox.next();
      (void)inbox.noise().size();
      if (!next.ok()) {
        FUZZ_CHECK(!next.status().message().empty());
        return 0;
      }
      if (!next.value()) break;
      const std::string once = agent_wire::encode(*next.value());
      agent_wire::Inbox other(false);
      other.feed(once);
      const auto again = other.next();
      FUZZ_CHECK(again.ok() && again.value() && agent_wire::encode(*again.value()) == once);
    }
  }
  return 0;
}
