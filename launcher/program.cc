#include "launcher/program.h"

#include <unistd.h>

#include <sstream>
#include <string_view>

#include <fmt/format.h>
#include <sys/stat.h>

namespace hora {
namespace {

bool is_program(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) &&
         ::access(path.c_str(), X_OK) == 0;
}

}  // namespace

std::map<std::string, std::string> variables_of(const std::vector<std::string>& environment) {
  std::map<std::string, std::string> variables;
  for (const std::string& entry : environment) {
    const size_t equals = entry.find('=');
    if (equals != entry.npos)
      variables.try_emplace(entry.substr(0, equals), entry.substr(equals + 1));
  }
  return variables;
}

std::vector<std::string> entries_of(const std::map<std::string, std::string>& variables) {
  std::vector<std::string> entries;
  for (const auto& [name, value] : variables) entries.push_back(name + "=" + value);
  return entries;
}

Result<std::string> find_program(const std::string& name,
                                 const std::vector<std::string>& environment) {
  const std::string hint =
      name.ends_with(".py") ? fmt::format("; did you mean `python {}`?", name) : "";
  if (name.find('/') != name.npos) {
    if (is_program(name)) return name;
    const char* const what =
        ::access(name.c_str(), F_OK) == 0 ? "is not executable" : "does not exist";
    return Status(Code::kUnavailable, fmt::format("program {} {}{}", name, what, hint));
  }
  const auto variables = variables_of(environment);
  const auto found = variables.find("PATH");
  std::istringstream folders(found == variables.end() ? "/usr/bin:/bin" : found->second);
  for (std::string folder; std::getline(folders, folder, ':');) {
    const std::string path = (folder.empty() ? "." : folder) + "/" + name;
    if (is_program(path)) return path;
  }
  return Status(Code::kUnavailable, fmt::format("program {} was not found in PATH{}", name, hint));
}

std::string shell_quoted(const std::string& text) {
  constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./:,@%";
  if (!text.empty() && text.find_first_not_of(kPlain) == text.npos) return text;
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

}  // namespace hora
