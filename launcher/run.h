#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "hora/status.h"
#include "launcher/hosts.h"
#include "launcher/job.h"
#include "launcher/settings_file.h"

namespace hora {

/// What the command line of horarun asks for.
struct RunOptions {
  int ranks = 0;
  bool prefix = true;
  bool dry_run = false, check_build = false;
  std::string output_dir;              ///< files for the ranks' output; empty: our own
  std::string config_file;             ///< TOML or YAML; empty: none
  double grace = 15;                   ///< seconds
  std::vector<std::string> variables;  ///< NAME=VALUE; from -x and from flags that are settings
  std::vector<std::string> command;    ///< the program and its arguments

  std::vector<Host> hosts;  ///< in the order of their ranks; empty: all ranks on this machine
  std::string remote_shell = "ssh -o BatchMode=yes -o StrictHostKeyChecking=accept-new";

  // Ranks may come and go.
  bool elastic = false;
  int min_ranks = 0, max_ranks = 0;
  std::string discovery_script;  ///< a command for /bin/sh; empty: max_ranks slots for good
  int slots_per_host = 1;
  int failures_allowed = 3;
  double cooldown = 5, longest_cooldown = 300;  ///< seconds
  int64_t reset_limit = -1;                     ///< -1: none
};

/// A command line that starts nothing: what to print, and the exit code.
struct Ending {
  int code = 0;
  std::string text;
};

/// Either options or an ending; `program` is how the user called us.
struct ParsedRun {
  bool run = false;
  RunOptions options;
  Ending ending;
};
ParsedRun parse_run(const std::string& program, const std::vector<std::string>& arguments);

/// What does not depend on the options.
struct Surroundings {
  std::vector<std::string> environment;  ///< NAME=VALUE
  std::string store;                     ///< address for HORA_STORE
  std::string job;
  int cores = 1;
  std::vector<FileSetting> file;   ///< what options.config_file says
  std::string records = {};        ///< HORA_FLIGHT_DIR, where nobody sets it
  std::string network_store = {};  ///< for HORA_STORE on other hosts
  std::string secret = {};         ///< HORA_SECRET; only where there are several hosts
  std::string folder = {};         ///< ranks of other hosts work there
  std::string program = {};        ///< the path of horarun
};

/// The setting flags of `arguments`, as horarun takes them, and --config-file, for `hora config`.
/// Anything else there is a mistake.
ParsedRun parse_settings_flags(const std::string& program,
                               const std::vector<std::string>& arguments, bool& origin);

/// Finds the program, makes each rank's environment, and reads it as the ranks will, so that a
/// mistake is told once, before anything starts. Errors: kUnavailable: no such program;
/// kInvalidArgument: a setting is wrong.
Result<JobPlan> make_plan(const RunOptions& options, const Surroundings& surroundings);

/// The variables that make_plan() adds or changes, and the command, for each rank; for a shell.
std::string describe_plan(const JobPlan& plan, const Surroundings& surroundings);

/// The program horarun. Returns the exit code.
int run_main(const std::string& program, const std::vector<std::string>& arguments);

}  // namespace hora
