#pragma once

#include <map>
#include <string>
#include <vector>

#include "hora/status.h"

namespace hora {

/// NAME=VALUE entries by name; the first one counts.
std::map<std::string, std::string> variables_of(const std::vector<std::string>& environment);

/// The other way.
std::vector<std::string> entries_of(const std::map<std::string, std::string>& variables);

/// The path of a program, which is looked for in the PATH of `environment` unless it is one.
/// Errors: kUnavailable: there is none, or it is not executable.
Result<std::string> find_program(const std::string& name,
                                 const std::vector<std::string>& environment);

/// `text` as one word for a POSIX shell.
std::string shell_quoted(const std::string& text);

}  // namespace hora
