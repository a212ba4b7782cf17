#pragma once

#include <string>
#include <vector>

namespace hora {

/// `hora timeline`: what its arguments after that word ask for. Gives the exit code.
int timeline_main(std::vector<std::string> arguments);

}  // namespace hora
