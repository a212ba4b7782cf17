// A rank's timeline, read back and looked at as `hora timeline` does.
#include "launcher/trace.h"

#include <cstdint>
#include <string>
#include <vector>

#include "tests/fuzz/fuzz.h"

using namespace hora;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  auto trace = parse_trace(fuzz::text(data, bytes), "t.json");
  if (!trace.ok()) {
    FUZZ_CHECK(trace.status().message().find("t.json") != std::string::npos);
    return 0;
  }
  std::vector<Trace> traces{std::move(trace.value())};
  if (!align(traces).ok()) return 0;
  FUZZ_CHECK(!merged_trace(traces).empty());
  FUZZ_CHECK(!trace_summary(traces, 5).empty());
  FUZZ_CHECK(!trace_picture(traces).empty());
  return 0;
}
