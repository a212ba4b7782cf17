#include "launcher/host_options.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <string_view>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <sys/random.h>

namespace hora {
namespace {

constexpr std::string_view kOfThisMachine[] = {
    "DISPLAY", "HOME", "HOSTNAME", "LOGNAME", "MAIL",   "OLDPWD", "PWD",        "SHELL",
    "SHLVL",   "TEMP", "TERM",     "TMP",     "TMPDIR", "USER",   "XAUTHORITY", "_",
};
constexpr std::string_view kOfThisLogin[] = {"BASH_FUNC_", "DBUS_", "SSH_", "XDG_"};

bool is_portable(std::string_view variable) {
  const std::string_view name = variable.substr(0, variable.find('='));
  const auto begins = [&](std::string_view prefix) { return name.starts_with(prefix); };
  return std::find(std::begin(kOfThisMachine), std::end(kOfThisMachine), name) ==
             std::end(kOfThisMachine) &&
         std::none_of(std::begin(kOfThisLogin), std::end(kOfThisLogin), begins);
}

}  // namespace

void HostOptions::add_to(CLI::App& app, RunOptions& options) {
  app.add_option("-H,--hosts", hosts_, "Hosts and the ranks they take, such as a:4,b:4")
      ->type_name("HOSTS");
  app.add_option("--hostfile", file_,
                 "The same from a file: lines `a slots=4`, or MLX's JSON; -hostfile works too")
      ->type_name("FILE");
  app.add_option("--rsh", options.remote_shell,
                 fmt::format("How to start a program on a host ({})", options.remote_shell))
      ->type_name("COMMAND");
}

std::string HostOptions::check(const CLI::App& app, RunOptions& options) const {
  if (app.count("--hosts") > 0 && app.count("--hostfile") > 0)
    return "--hosts and --hostfile: give one of them";
  if (app.count("--hosts") + app.count("--hostfile") == 0)
    return app.count("--rsh") > 0 && options.discovery_script.empty()
               ? "--rsh is for several hosts: give --hosts too"
               : "";
  Result<std::vector<Host>> hosts =
      app.count("--hosts") > 0 ? parse_hosts(hosts_) : read_hostfile(file_);
  if (!hosts.ok())
    return (app.count("--hosts") > 0 ? "--hosts: " : "") + std::string(hosts.status().message());
  options.hosts = std::move(hosts).value();
  const CLI::Option* const ranks = app.get_option_no_throw("--np");  // the doctor has none
  if (ranks != nullptr && ranks->count() > 0) return {};
  options.ranks = 0;
  for (const Host& host : options.hosts) options.ranks += host.slots;
  return {};
}

std::vector<std::string> portable(const std::vector<std::string>& environment) {
  std::vector<std::string> result;
  std::copy_if(environment.begin(), environment.end(), std::back_inserter(result), is_portable);
  return result;
}

Result<std::string> random_secret() {
  std::array<unsigned char, 32> bytes{};
  if (::getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
    return Status(Code::kUnavailable,
                  fmt::format("no random numbers: {}", ::strerrordesc_np(errno)));
  std::string digits;
  for (const unsigned char byte : bytes) digits += fmt::format("{:02x}", byte);
  return digits;
}

}  // namespace hora
