// A rank's flight record, read back and explained as `hora explain` does.
#include <cstdint>
#include <string>
#include <vector>

#include "launcher/explain.h"
#include "launcher/flight_records.h"
#include "tests/fuzz/fuzz.h"

using namespace hora;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  const auto record = parse_flight_record(std::string(fuzz::text(data, bytes)));
  if (!record.ok()) {
    FUZZ_CHECK(!record.status().message().empty());
    return 0;
  }
  FUZZ_CHECK(!explain({record.value()}).empty());
  FlightRecord other = record.value();  // the same of a second rank
  other.rank = record.value().rank + 1;
  FUZZ_CHECK(!explain({record.value(), other}).empty());
  return 0;
}
