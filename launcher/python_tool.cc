#include "launcher/python_tool.h"

#include <unistd.h>

#include <filesystem>

#include <fmt/format.h>

#include "hora/config.h"
#include "launcher/program.h"

namespace hora {

int python_tool(const std::string& module, const std::vector<std::string>& arguments) {
  std::error_code unknown;
  std::filesystem::path python = std::filesystem::read_symlink("/proc/self/exe", unknown);
  python.replace_filename("python3");
  if (::access(python.c_str(), X_OK) != 0) {
    const auto found = find_program("python3", environment());
    if (!found.ok()) {
      fmt::print(stderr, "hora: {}: {}\n", module, found.status().message());
      return 2;
    }
    python = found.value();
  }
  std::vector<std::string> words{python.string(), "-m", module};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  ::execv(python.c_str(), pointers.data());
  fmt::print(stderr, "hora: can't start {}\n", python.string());
  return 2;
}

}  // namespace hora
