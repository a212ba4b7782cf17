#include "launcher/command_line.h"

#include <algorithm>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

namespace hora {

std::optional<int> parse_command_line(CLI::App& app, std::vector<std::string> arguments) {
  try {
    std::reverse(arguments.begin(), arguments.end());  // as the library wants them
    app.parse(arguments);
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::Error& error) {
    fmt::print(stderr, "{}: {}\nTry `{} --help`.\n", app.get_name(), error.what(), app.get_name());
    return 2;
  }
  return {};
}

}  // namespace hora
