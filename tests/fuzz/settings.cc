// Settings from files, the environment, and the small texts that launcher and ranks exchange.
#include <cstdint>
#include <string>

#include "hora/config.h"
#include "hora/membership.h"
#include "launcher/hosts.h"
#include "launcher/plan.h"
#include "launcher/settings_file.h"
#include "runtime/links.h"
#include "runtime/quantity.h"
#include "tests/fuzz/fuzz.h"

using namespace hora;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  const std::string_view text = fuzz::text(data, bytes);
  for (const char* file : {"run.toml", "run.yaml"}) {
    const auto settings = parse_settings(text, file);
    if (!settings.ok()) {
      FUZZ_CHECK(!settings.status().message().empty());
      continue;
    }
    const auto environment = with_defaults({}, settings.value());
    const auto config = Config::parse(environment);
    if (!config.ok()) continue;
    for (const Setting& setting : hora::settings()) (void)value_of(config.value(), setting).size();
    (void)digest_text(config.value()).size();
  }
  (void)parse_integer(text), (void)parse_bytes(text), (void)parse_seconds(text);
  (void)parse_discovered(text, 2).ok();
  (void)link_of(std::string(text)).ok();
  if (const auto cost = parse_cost(text)) FUZZ_CHECK(parse_cost(text_of(*cost)).has_value());
  FUZZ_CHECK(parse_samples(text).size() <= text.size());
  if (const auto ask = membership::parse_ask(text))
    FUZZ_CHECK(membership::parse_ask(membership::ask_key(*ask)) == ask);
  if (const auto place = membership::parse_place(text))
    FUZZ_CHECK(membership::parse_place(membership::text_of(*place)).has_value());
  return 0;
}
