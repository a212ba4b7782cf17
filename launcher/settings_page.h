#pragma once

#include <string>
#include <vector>

#include "launcher/settings_file.h"

namespace hora {

/// docs/environment.md, made of the table of settings.
std::string settings_markdown();
/// The same table for a terminal.
std::string settings_text();

/// Where settings come from, the strongest first; lists of NAME=VALUE.
struct ConfigSources {
  std::vector<std::string> flags, environment;
  std::vector<FileSetting> file;
};

/// Every setting's value and where it comes from; or what is wrong there. `over`: also what each
/// value was chosen over.
struct ConfigPage {
  bool ok = false;
  std::string text;
};
ConfigPage config_page(const ConfigSources& sources, bool over);

}  // namespace hora
