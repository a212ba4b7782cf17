#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "hora/request.h"
#include "hora/status.h"
#include "ops/backend.h"

namespace hora {

/// What both sides of a plug-in must agree on: C++ classes cross the border, so the compiler and
/// the layout of what crosses. Raise the number when Backend, Communicator, Lane, Ticket or
/// PluginContext change.
inline constexpr const char* kPluginAbi = "hora-plugin-2 " __VERSION__;

/// What a backend in a plug-in gets from the runtime that loads it.
///
/// Threads: the functions may be called from any of the plug-in's threads, several at once.
struct PluginContext {
  Rank rank = 0;
  int size = 1;
  std::string job;  ///< names this job and epoch: keys of another epoch never meet these
  std::string hostname = "127.0.0.1";  ///< the address that other ranks reach this one at
  std::string isa = "auto";  ///< for choose_isa() in the plug-in's own copy of the kernels

  /// How long the members of a communicator may take to find each other.
  std::chrono::milliseconds setup_timeout{60'000};
  /// How long a member may send nothing in the middle of an operation. The engine's own liveness
  /// is quicker; this bounds what it cannot see.
  std::chrono::milliseconds operation_timeout{60'000};

  /// Leaves a value for the other ranks: Store::set().
  std::function<Status(std::string_view key, std::string_view value)> publish;
  /// Waits for a value of another rank: Store::get().
  std::function<Result<std::string>(std::string_view key, std::chrono::milliseconds timeout)>
      lookup;
  /// An operation ended: wakes this rank's driver.
  std::function<void()> ring;
};

/// Loads `libhora_<name>.so` and opens its backend. Looks beside the file that holds this function
/// (a program, or the Python extension), then in `../lib` and `../../lib` from there, then wherever
/// the loader looks. A plug-in stays loaded until the process ends.
///
/// Errors: kUnavailable says what was looked for, where, and why each place did not do;
/// otherwise what the backend says.
Result<std::unique_ptr<Backend>> load_backend(std::string_view name, const PluginContext& context);

/// What a plug-in exports, with C linkage:
///   const char* hora_plugin_abi();
///   void hora_backend_open(const PluginContext*, PluginAnswer*);
struct PluginAnswer {
  Status status;
  std::unique_ptr<Backend> backend;
};
using PluginAbiFunction = const char* (*)();
using PluginOpenFunction = void (*)(const PluginContext* context, PluginAnswer* answer);

}  // namespace hora
