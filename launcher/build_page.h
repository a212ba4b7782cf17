#pragma once

#include <string>

namespace hora {

/// What this build holds, a line each with [X] or [ ], in the order and words of Horovod's own.
std::string build_page();

}  // namespace hora
