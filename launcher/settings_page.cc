#include "launcher/settings_page.h"

#include <algorithm>
#include <string_view>

#include <fmt/format.h>

#include "hora/config.h"

namespace hora {
namespace {

constexpr std::string_view kIntroduction = R"(# Settings

Hora reads its settings from environment variables when it starts. `hora config` shows the values in
force and where each comes from. This page is made by `hora settings --markdown`.

- Sizes: `8388608`, `8 MiB`, `64k`, `1.5G`; units are powers of 1024.
- Times: `10`, `10s`, `500ms`, `50us`, `2 min`, `1h`; without a unit, seconds.
- A name that begins with `HORA_` and is not in the table, or a value that does not fit, is an error.
- An empty variable counts as not set.

| variable | default | values | meaning |
|---|---|---|---|
)";

constexpr std::string_view kAliases = R"(
## Other names

Variables of Horovod with the same meaning are read where the `HORA_` variable is not set. Numbers
beyond Hora's range become the nearest in it. Variables of Horovod that are not here are ignored.

| Horovod's | Hora's |
|---|---|
)";

constexpr std::string_view kEnd =
    R"(| `HOROVOD_STALL_CHECK_DISABLE` | `HORA_STALL_WARNING=0`, if it is not `0` |

## Which rank is this?

Rank and size come from one source: `HORA_RANK` and `HORA_SIZE`, else `HOROVOD_RANK` and
`HOROVOD_SIZE`, else torchrun's `RANK`, `WORLD_SIZE`, `LOCAL_RANK` and `LOCAL_WORLD_SIZE`. `horarun`
sets the first and the last kind. More than one rank needs `HORA_STORE`, where the ranks find each
other; without it the start fails with an error that says to use `horarun`.
)";

std::string code_or_nothing(std::string_view text) {
  return text.empty() ? "" : fmt::format("`{}`", text);
}

}  // namespace

std::string settings_markdown() {
  std::string page(kIntroduction);
  for (const Setting& setting : settings()) {
    const std::string_view range = setting.range;
    page +=
        fmt::format("| `{}` | {} | {} | {} |\n", setting.name, code_or_nothing(setting.standard),
                    range.empty() ? "text" : range, setting.help);
  }
  page += kAliases;
  for (const Setting& setting : settings()) {
    if (std::string_view(setting.alias).empty()) continue;
    page += fmt::format("| `{}` | `{}` |\n", setting.alias, setting.name);
  }
  return page += kEnd;
}

std::string settings_text() {
  std::string page;
  for (const Setting& setting : settings()) {
    const std::string_view range = setting.range, standard = setting.standard;
    page += fmt::format("{} ({}{}{})\n    {}\n", setting.name, range.empty() ? "text" : range,
                        standard.empty() ? "" : "; default ", standard, setting.help);
  }
  return page;
}

ConfigPage config_page(const std::vector<std::string>& environment) {
  std::vector<std::string> origins;
  const Result<Config> config = Config::parse(environment, &origins);
  if (!config.ok()) return {false, config.status().message() + "\n"};
  std::string page;
  for (size_t i = 0; i < settings().size(); ++i) {
    const Setting& setting = settings()[i];
    const std::string value = value_of(config.value(), setting);
    const std::string_view variable = origins[i];
    const std::string_view origin = variable == setting.name ? "environment" : variable;
    page += fmt::format("{:<22} {:<12} {}\n", setting.name, value.empty() ? "-" : value, origin);
  }
  return {true, page};
}

}  // namespace hora
