#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hora/status.h"

namespace hora {

/// Every setting of the runtime, as a value. Names, defaults, units and ranges are in settings(),
/// the one table that also makes docs/environment.md and the launcher's messages.
struct Config {
  // Who we are. The launcher sets these; torchrun's and Horovod's variables are understood too.
  int rank = 0, size = 1;
  int local_rank = 0, local_size = 1;  ///< among the ranks of this host
  int cross_rank = 0, cross_size = 1;  ///< this host among the hosts
  std::string store;                   ///< "unix:/path", "tcp://host:port"; empty: alone
  std::string secret;                  ///< 64 hexadecimal digits, or empty; never to be shown
  std::string job;                     ///< names the job in logs and sockets
  int worker = 0;             ///< in an elastic job, this process's number from 1; the rank changes
  uint32_t epoch = 1;         ///< which start within the job; every rank counts alike
  bool serves_store = false;  ///< no launcher of ours: rank 0 serves the store itself

  std::string address;            ///< where other hosts reach this rank; empty: anywhere
  int tcp_streams = 0;            ///< connections for each peer and lane
  uint64_t tcp_buffer_bytes = 0;  ///< of each connection and direction
  int tls = 0;                    ///< 1: encrypted between hosts
  int hierarchical = 0;           ///< 1: in layers, inside hosts and between them
  std::string links;              ///< measure, none, or a rate and delay: between hosts
  int tree_arity = 0;             ///< children of a host in the control tree

  std::string backend;       ///< auto, shm, tcp, gloo
  std::string compression;   ///< the default chain
  std::string codec_speeds;  ///< for compression "auto": measure, usual, or numbers
  std::string isa;           ///< auto, base, avx2, avx512
  uint64_t bucket_bytes = 0, express_bytes = 0, window_bytes = 0, arena_bytes = 0;
  uint64_t carry_bytes = 0;  ///< of all ranks together: up to this, values travel with control
  int lanes = 0;
  uint64_t cache_capacity = 0;
  double start_timeout = 0, failure_timeout = 0, stall_warning = 0, stall_abort = 0;  ///< seconds
  double spin = 0;                                                                    ///< seconds
  double elastic_timeout = 0;                                                         ///< seconds
  uint64_t seed = 0;
  std::string timeline;         ///< a path; empty: none until asked for at run time
  uint64_t timeline_bytes = 0;  ///< of one rank's file
  std::string log_level;        ///< trace, debug, info, warning, error, off
  std::string flight_dir;       ///< where flight records go; empty: nowhere

  /// All defaults.
  Config();

  /// Reads the environment of this process. Errors: kInvalidArgument has one line for each variable
  /// that is wrong: its name, what is wrong with it, and what was expected or probably meant.
  static Result<Config> from_environment();

  /// The same for any environment, a list of NAME=VALUE. `origins`, if given, becomes parallel to
  /// settings(): the variable that each value came from, or "default".
  static Result<Config> parse(std::span<const std::string> environment,
                              std::vector<std::string>* origins = nullptr);
};

/// One row of the table of settings.
struct Setting {
  const char* name;      ///< "HORA_BUCKET_BYTES"
  const char* type;      ///< "bytes", "seconds", "integer", "text", "choice", "secret",
                         ///< "link"
  const char* standard;  ///< the default, as one would write it
  const char* range;     ///< "4 KiB to 1 GiB", "auto, shm, gloo"; empty: anything
  const char* help;      ///< one sentence
  const char* alias;     ///< HOROVOD_* name with the same meaning, or ""
};

std::span<const Setting> settings();

/// What `config` has for `setting`, as one would write it: "8 MiB". A secret is "(hidden)".
std::string value_of(const Config& config, const Setting& setting);

/// The settings that must be equal on all ranks, one NAME=VALUE on each line. Ranks compare these
/// texts when they meet; the first line that differs names the setting at fault.
std::string digest_text(const Config& config);

/// The environment of this process, as Config::parse() takes it.
std::vector<std::string> environment();

}  // namespace hora
