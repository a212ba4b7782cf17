#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "hora/status.h"

namespace hora {

/// Every setting of the runtime, as a value. Names, defaults, units and ranges are in settings(),
/// the one table that also makes docs/environment.md and the launcher's flags.
struct Config {
  // Who we are. The launcher sets these; torchrun's and others' variables are understood too.
  int rank = 0, size = 1;
  int local_rank = 0, local_size = 1, cross_rank = 0, cross_size = 1;
  std::string store;  ///< "unix:/path"; empty: alone
  std::string job;    ///< names the job in logs and sockets

  std::string backend = "auto";      ///< auto, shm, gloo
  std::string compression = "none";  ///< the default chain
  uint64_t bucket_bytes = 0, express_bytes = 0, window_bytes = 0, arena_bytes = 0;
  int lanes = 0;
  uint64_t cache_capacity = 0;
  double start_timeout = 0, failure_timeout = 0, stall_warning = 0, stall_abort = 0;  ///< seconds
  double spin = 0;  ///< seconds
  uint64_t seed = 0;
  std::string isa;        ///< auto, base, avx2, avx512
  std::string log_level;  ///< trace, debug, info, warning, error, off

  /// All defaults.
  Config();

  /// Reads the environment. Errors: kInvalidArgument names the variable, what is wrong with its
  /// value or name, and what was probably meant.
  static Result<Config> from_environment();
};

/// One row of the table of settings.
struct Setting {
  const char* name;      ///< "HORA_BUCKET_BYTES"
  const char* type;      ///< "bytes", "seconds", "integer", "text", "choice"
  const char* standard;  ///< the default, as one would write it
  const char* range;     ///< "64 KiB to 1 GiB", "auto, shm, gloo"
  const char* help;      ///< one sentence
  const char* alias;     ///< HOROVOD_* name with the same meaning, or ""
};

std::span<const Setting> settings();

}  // namespace hora
