// Hosts on a command line and in files of three languages.
#include "launcher/hosts.h"

#include <cstdint>
#include <string>

#include "tests/fuzz/fuzz.h"

using namespace hora;

namespace {

void look_at(const Result<std::vector<Host>>& hosts) {
  if (!hosts.ok()) {
    FUZZ_CHECK(!hosts.status().message().empty());
    return;
  }
  for (const Host& host : hosts.value()) FUZZ_CHECK(!host.name.empty() && host.slots > 0);
  if (const auto places = place_ranks(hosts.value(), 3); places.ok())
    FUZZ_CHECK(places.value().size() == 3);
  const auto again = parse_hosts(to_text(hosts.value()));
  if (again.ok()) FUZZ_CHECK(again.value().size() <= hosts.value().size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  const std::string_view text = fuzz::text(data, bytes);
  look_at(parse_hosts(text));
  look_at(parse_hostfile("hosts", text));
  return 0;
}
