#pragma once

#include <string>
#include <vector>

namespace hora {

/// What ranks on this machine would miss, one line each with what to do: permissions and limits.
std::vector<std::string> lacks_here();

/// What this machine and build can do, and what is missing and why, for a terminal.
std::string doctor_page();

/// Is this part here, and does it load? "yes, PATH" or "no: REASON".
std::string plugin_line(const std::string& file);

}  // namespace hora
