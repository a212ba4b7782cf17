#pragma once

#include <string>

namespace hora {

/// What this machine and build can do, and what is missing and why, for a terminal.
std::string doctor_page();

}  // namespace hora
