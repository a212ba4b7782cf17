#pragma once

#include <string>
#include <vector>

namespace hora {

/// Becomes `python3 -m MODULE ARGUMENTS`, by the interpreter beside this program, else by that in
/// PATH. Gives an exit code only if there is no such interpreter, and has said so.
int python_tool(const std::string& module, const std::vector<std::string>& arguments);

}  // namespace hora
