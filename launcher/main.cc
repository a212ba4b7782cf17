#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "hora/config.h"
#include "launcher/doctor.h"
#include "launcher/run.h"
#include "launcher/settings_page.h"

namespace hora {
namespace {

int print_config() {
  const ConfigPage page = config_page(environment());
  fmt::print(page.ok ? stdout : stderr, "{}", page.text);
  return page.ok ? 0 : 2;
}

int hora_main(std::vector<std::string> arguments) {
  CLI::App app("Hora: collective operations for data-parallel training.", "hora");
  app.require_subcommand(1);
  app.set_version_flag("--version", "hora " HORA_VERSION);
  bool markdown = false;
  app.add_subcommand("run", "Start a program as several ranks; the same as horarun");
  CLI::App* const settings = app.add_subcommand("settings", "List all settings");
  settings->add_flag("--markdown", markdown, "As the page docs/environment.md");
  CLI::App* const config =
      app.add_subcommand("config", "Show the settings in force and where each comes from");
  CLI::App* const doctor =
      app.add_subcommand("doctor", "Say what this machine can do, and why not");
  // Its arguments are another program's, which this parser must not look at.
  if (!arguments.empty() && arguments[0] == "run")
    return run_main("hora run", {arguments.begin() + 1, arguments.end()});
  try {
    std::reverse(arguments.begin(), arguments.end());
    app.parse(arguments);
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::Error& error) {
    fmt::print(stderr, "hora: {}\nTry `hora --help`.\n", error.what());
    return 2;
  }
  if (*settings) fmt::print("{}", markdown ? settings_markdown() : settings_text());
  if (*config) return print_config();
  if (*doctor) fmt::print("{}", doctor_page());
  return 0;
}

}  // namespace
}  // namespace hora

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + (argc > 0 ? 1 : 0), argv + argc);
  const std::string name = argc > 0 ? std::filesystem::path(argv[0]).filename().string() : "";
  return name == "hora" ? hora::hora_main(arguments) : hora::run_main("horarun", arguments);
}
