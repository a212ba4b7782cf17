#pragma once

#include <string>
#include <vector>

namespace hora {

/// docs/environment.md, made of the table of settings.
std::string settings_markdown();
/// The same table for a terminal.
std::string settings_text();

/// Every setting's value in `environment` and the variable it comes from; or what is wrong there.
struct ConfigPage {
  bool ok = false;
  std::string text;
};
ConfigPage config_page(const std::vector<std::string>& environment);

}  // namespace hora
