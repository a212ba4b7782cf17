#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "hora/config.h"
#include "hora/status.h"

namespace hora {

/// The flag that sets `setting`: "--bucket-bytes" for HORA_BUCKET_BYTES. Empty for what the
/// launcher itself tells the ranks: who they are, where they meet, and the job's name.
std::string flag_of(const Setting& setting);

/// One setting of a file.
struct FileSetting {
  std::string variable;  ///< "HORA_BUCKET_BYTES"
  std::string value;
  std::string place;  ///< "run.toml:3", for messages
};

/// Settings from flat TOML (`lanes = 3`, text in quotes) or YAML (`lanes: 3`); which of the two,
/// the name's end says: .toml, .yaml or .yml. A key is a setting's name without HORA_, in any case
/// and with - or _. A section is the beginning of its keys' names (`warning` in `stall` is
/// HORA_STALL_WARNING), or `hora`. Lists, tables in tables and text of several lines are refused.
///
/// Errors: kInvalidArgument has a line for each mistake: where it is, what is wrong, what was
/// expected. Values are not looked at: Config::parse() does.
Result<std::vector<FileSetting>> parse_settings(std::string_view text, const std::string& file);

/// The same for a file. Errors also: kInvalidArgument if it cannot be read.
Result<std::vector<FileSetting>> read_settings_file(const std::string& path);

/// `environment` (NAME=VALUE), and what `file` says where neither a setting nor its other name is
/// set in it.
std::vector<std::string> with_defaults(std::vector<std::string> environment,
                                       const std::vector<FileSetting>& file);

}  // namespace hora
