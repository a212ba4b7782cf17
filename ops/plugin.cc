#include "ops/plugin.h"

#include <dlfcn.h>
#include <unistd.h>

#include <utility>
#include <vector>

namespace hora {
namespace {

/// The folder of the file that this code was loaded from; empty if the loader does not know.
std::string own_folder() {
  Dl_info info = {};
  if (::dladdr(reinterpret_cast<void*>(&load_backend), &info) == 0 || !info.dli_fname) return {};
  const std::string file = info.dli_fname;
  const size_t slash = file.rfind('/');
  return slash == std::string::npos ? std::string() : file.substr(0, slash + 1);
}

std::vector<std::string> candidates(const std::string& file) {
  std::vector<std::string> paths;
  if (const std::string folder = own_folder(); !folder.empty())
    for (const char* relative : {"", "../lib/", "../../lib/"})
      paths.push_back(folder + relative + file);
  paths.push_back(file);  // no slash: the loader's own path
  return paths;
}

/// dlopen's error; a file that is not there is the usual case and needs few words.
std::string why_not(const std::string& path) {
  const char* error = ::dlerror();
  if (path.find('/') != std::string::npos && ::access(path.c_str(), F_OK) != 0)
    return path + ": no such file";
  return error ? error : path + ": unknown error";
}

Status wrong_abi(const std::string& path, const char* theirs) {
  return Status(Code::kUnavailable,
                path + " was built as \"" + theirs + "\", this program as \"" + kPluginAbi +
                    "\"; build both from the same source with the same compiler");
}

Result<std::unique_ptr<Backend>> open_backend(void* library, const std::string& path,
                                              const PluginContext& context) {
  const auto abi = reinterpret_cast<PluginAbiFunction>(::dlsym(library, "hora_plugin_abi"));
  const auto open = reinterpret_cast<PluginOpenFunction>(::dlsym(library, "hora_backend_open"));
  if (!abi || !open) return Status(Code::kUnavailable, path + " is not a plug-in of Hora");
  if (std::string_view(abi()) != kPluginAbi) return wrong_abi(path, abi());
  PluginAnswer answer;
  open(&context, &answer);
  if (!answer.status.ok()) return answer.status;
  return std::move(answer.backend);
}

bool plain(std::string_view name) {
  return !name.empty() &&
         name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_") == std::string_view::npos;
}

}  // namespace

Result<std::unique_ptr<Backend>> load_backend(std::string_view name, const PluginContext& context) {
  if (!plain(name))
    return Status(Code::kInvalidArgument, "\"" + std::string(name) + "\" is not a backend's name");
  const std::string file = "libhora_" + std::string(name) + ".so";
  std::string reasons;
  for (const std::string& path : candidates(file)) {
    void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library) return open_backend(library, path, context);
    reasons += (reasons.empty() ? "" : "; ") + why_not(path);
  }
  return Status(Code::kUnavailable,
                "backend " + std::string(name) + ": could not load " + file + " (" + reasons + ")");
}

}  // namespace hora
