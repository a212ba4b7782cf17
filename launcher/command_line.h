#pragma once

#include <optional>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace hora {

/// Parses `arguments` as `app` says. Gives the exit code where nothing is left to do: help was
/// printed, or what is wrong with them.
std::optional<int> parse_command_line(CLI::App& app, std::vector<std::string> arguments);

}  // namespace hora
