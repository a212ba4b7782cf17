#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "hora/config.h"
#include "launcher/agent.h"
#include "launcher/command_line.h"
#include "launcher/compress.h"
#include "launcher/doctor.h"
#include "launcher/doctor_hosts.h"
#include "launcher/explain.h"
#include "launcher/plan.h"
#include "launcher/python_tool.h"
#include "launcher/run.h"
#include "launcher/settings_page.h"
#include "launcher/timeline.h"

namespace hora {
namespace {

int print_config(const std::vector<std::string>& arguments) {
  bool origin = false;
  const ParsedRun parsed = parse_settings_flags("hora config", arguments, origin);
  if (!parsed.run) {
    fmt::print(parsed.ending.code == 0 ? stdout : stderr, "{}", parsed.ending.text);
    return parsed.ending.code;
  }
  ConfigSources sources{parsed.options.variables, environment(), {}};
  if (const std::string& path = parsed.options.config_file; !path.empty()) {
    auto file = read_settings_file(path);
    if (!file.ok()) {
      fmt::print(stderr, "{}\n", file.status().message());
      return 2;
    }
    sources.file = std::move(file).value();
  }
  const ConfigPage page = config_page(sources, origin);
  fmt::print(page.ok ? stdout : stderr, "{}", page.text);
  return page.ok ? 0 : 2;
}

int print_explanation(const std::string& directory) {
  const auto records = read_flight_records(directory);
  if (!records.ok()) {
    fmt::print(stderr, "hora explain: {}\n", records.status().message());
    return 2;
  }
  fmt::print("{}", explain(records.value()));
  return 0;
}

int hora_main(std::vector<std::string> arguments) {
  CLI::App app("Hora: collective operations for data-parallel training.", "hora");
  app.require_subcommand(1);
  app.set_version_flag("--version", "hora " HORA_VERSION);
  bool markdown = false;
  app.add_subcommand("run", "Start a program as several ranks; the same as horarun");
  CLI::App* const settings = app.add_subcommand("settings", "List all settings");
  settings->add_flag("--markdown", markdown, "As the page docs/environment.md");
  app.add_subcommand("config", "Show the settings in force and where each comes from");
  std::string directory;
  CLI::App* const explanation = app.add_subcommand(
      "explain", "Tell from flight records which rank did not do what (HORA_FLIGHT_DIR)");
  explanation->add_option("DIR", directory, "Where the ranks' records are")->required();
  CLI::App* const doctor =
      app.add_subcommand("doctor", "Say what this machine can do, and why not; --hosts: others");
  app.add_subcommand("timeline", "Merge and summarize timelines");
  app.add_subcommand("compress", "List compression settings, and explain one for a model");
  app.add_subcommand("plan", "Predict how long an allreduce takes, and which way it goes");
  app.add_subcommand("new", "Begin a compressor: its source and its test");
  app.add_subcommand("bench", "Say what a compressor is worth");
  if (!arguments.empty() && (arguments[0] == "new" || arguments[0] == "bench"))
    return python_tool("hora." + arguments[0], {arguments.begin() + 1, arguments.end()});
  if (!arguments.empty() && arguments[0] == "timeline")
    return timeline_main({arguments.begin() + 1, arguments.end()});
  if (arguments.size() > 1 && arguments[0] == "doctor")
    return doctor_main({arguments.begin() + 1, arguments.end()});
  if (!arguments.empty() && arguments[0] == "compress")
    return compress_main({arguments.begin() + 1, arguments.end()});
  if (!arguments.empty() && arguments[0] == "plan")
    return plan_main({arguments.begin() + 1, arguments.end()});
  // Its arguments are another program's, which this parser must not look at.
  if (!arguments.empty() && arguments[0] == "run")
    return run_main("hora run", {arguments.begin() + 1, arguments.end()});
  if (!arguments.empty() && arguments[0] == "config")
    return print_config({arguments.begin() + 1, arguments.end()});
  if (const auto code = parse_command_line(app, std::move(arguments))) return *code;
  if (*settings) fmt::print("{}", markdown ? settings_markdown() : settings_text());
  if (*explanation) return print_explanation(directory);
  if (*doctor) fmt::print("{}", doctor_page());
  return 0;
}

}  // namespace
}  // namespace hora

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + (argc > 0 ? 1 : 0), argv + argc);
  const std::string name = argc > 0 ? std::filesystem::path(argv[0]).filename().string() : "";
  // Not for people: what horarun starts on another host.
  if (arguments == std::vector<std::string>{"--agent"}) return hora::agent_main();
  return name == "hora" ? hora::hora_main(arguments) : hora::run_main("horarun", arguments);
}
